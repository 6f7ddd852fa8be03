//! Whoever keeps the record of the world elsewhere, too, as the store does in a database.

use std::fmt::Debug;

use capstan_core::changes::Changes;
use capstan_core::input::Input;
use capstan_core::record::Group;
use capstan_core::state::GroupState;

use super::World;

/// It is told of every decision after the world's own checks, and is what is read after a crash.
pub trait Keeper: Debug {
    /// The world begins with this group, which has no servers yet.
    fn begin(&mut self, group: &Group);

    /// An input was decided; the world's state and shadow are as they are after it.
    fn decided(&mut self, world: &World, input: &Input, changes: &Changes);

    /// What a fresh start reads: the same as the world's state, but for the order of servers.
    fn read(&mut self, world: &World) -> GroupState;

    /// Nothing more comes.
    fn end(&mut self, world: &World);
}

impl World {
    /// What a fresh start reads.
    pub fn read_again(&mut self) -> GroupState {
        let kept = self.with_keeper(|keeper, world| keeper.read(world));
        kept.unwrap_or_else(|| self.shadow.rebuild())
    }

    /// Tells whoever keeps the record that nothing more comes.
    pub fn end_record(&mut self) {
        self.with_keeper(|keeper, world| keeper.end(world));
    }

    pub fn with_keeper<T>(&mut self, tell: impl FnOnce(&mut dyn Keeper, &Self) -> T) -> Option<T> {
        let mut keeper = self.keeper.take()?;
        let told = tell(keeper.as_mut(), self);
        self.keeper = Some(keeper);
        Some(told)
    }
}
