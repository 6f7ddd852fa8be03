//! The macro that turns a table of transitions into a `match` and a list of its edges.

/// Declares a state machine as one table of rows `From + Event => To`.
///
/// Gives the event enum, `State::on(Event) -> Option<State>`, and `EDGES`, the rows in their order,
/// from which tests and diagrams are made. A doubled row is an unreachable pattern, which is an
/// error here. Rows have no guards and no wildcards: a condition is another event, chosen by
/// [`crate::decide`].
macro_rules! transitions {
    (
        $state:ident, $(#[$meta:meta])* $event:ident { $($(#[$doc:meta])* $name:ident,)+ }
        $($from:ident + $on:ident => $to:ident)+
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $event { $($(#[$doc])* $name,)+ }

        impl $state {
            /// The rows of the table: from, on, to.
            pub const EDGES: &'static [(Self, $event, Self)] =
                &[$((Self::$from, $event::$on, Self::$to),)+];

            /// The state that follows, or `None` if the table has no such row.
            #[deny(unreachable_patterns)]
            pub fn on(self, event: $event) -> Option<Self> {
                match (self, event) {
                    $((Self::$from, $event::$on) => Some(Self::$to),)+
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use transitions;
