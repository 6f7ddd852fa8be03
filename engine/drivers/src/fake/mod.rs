//! For tests: a load balancer and hosts in memory, with scripted faults.
//!
//! They pass the same conformance suites as the real drivers. Nothing here waits unless a test asks
//! for a delay, so a rollout over 10,000 servers takes as long as the engine needs.

mod executor;
mod hosts;
mod load_balancer;

pub use executor::FakeExecutor;
pub use hosts::{Asked, End, Outcome, Ran};
pub use load_balancer::{Act, Calls, FakeLoadBalancer};

use std::time::Duration;

use capstan_core::ports::DriverError;

/// What goes wrong with one call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The other side refuses; nothing happens.
    Refuse,
    /// The other side is busy; nothing happens.
    Busy,
    /// It happens, and the answer is lost.
    LoseAnswer,
    /// The question is lost: nothing happens, and no answer comes.
    LoseQuestion,
    /// It happens at once, and the answer comes after this time.
    Delay(Duration),
}

impl Fault {
    /// What the caller gets instead of an answer without anything having happened.
    fn before(&self) -> Result<(), DriverError> {
        match self {
            Self::Refuse => Err(DriverError::Refused("the test refuses the call".to_owned())),
            Self::Busy => Err(DriverError::Busy("the test is busy".to_owned())),
            Self::LoseQuestion => {
                Err(DriverError::Unknown("the test lost the question".to_owned()))
            }
            Self::None | Self::LoseAnswer | Self::Delay(_) => Ok(()),
        }
    }

    /// What becomes of the answer.
    async fn after<T>(self, answer: T) -> Result<T, DriverError> {
        match self {
            Self::LoseAnswer => Err(DriverError::Unknown("the test lost the answer".to_owned())),
            Self::Delay(time) => {
                tokio::time::sleep(time).await;
                Ok(answer)
            }
            Self::None | Self::Refuse | Self::Busy | Self::LoseQuestion => Ok(answer),
        }
    }
}
