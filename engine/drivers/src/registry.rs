//! The drivers of this installation, by the names that groups use.

use std::collections::BTreeMap;
use std::sync::Arc;

use capstan_core::ports::{DriverError, Executor, LoadBalancer};

/// A group names a driver that is not configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No load balancer has this name.
    #[error("there is no load balancer named `{name}`; {}", there_are(.known))]
    NoLoadBalancer {
        /// The name.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// No executor has this name.
    #[error("there is no executor named `{name}`; {}", there_are(.known))]
    NoExecutor {
        /// The name.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
}

impl From<Error> for DriverError {
    fn from(error: Error) -> Self {
        Self::Refused(error.to_string())
    }
}

/// The load balancers and executors that are configured.
#[derive(Clone, Default)]
pub struct Drivers {
    /// Load balancers by name.
    pub load_balancers: BTreeMap<String, Arc<dyn LoadBalancer>>,
    /// Executors by name.
    pub executors: BTreeMap<String, Arc<dyn Executor>>,
}

impl Drivers {
    /// The load balancer with this name.
    pub fn load_balancer(&self, name: &str) -> Result<&Arc<dyn LoadBalancer>, Error> {
        self.load_balancers.get(name).ok_or_else(|| Error::NoLoadBalancer {
            name: name.to_owned(),
            known: self.load_balancers.keys().cloned().collect(),
        })
    }

    /// The executor with this name.
    pub fn executor(&self, name: &str) -> Result<&Arc<dyn Executor>, Error> {
        self.executors.get(name).ok_or_else(|| Error::NoExecutor {
            name: name.to_owned(),
            known: self.executors.keys().cloned().collect(),
        })
    }
}

fn there_are(names: &[String]) -> String {
    if names.is_empty() {
        return "none is configured".to_owned();
    }
    format!("configured are: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noop::{NoopExecutor, NoopLoadBalancer};

    #[test]
    fn a_missing_driver_is_named_together_with_those_that_exist() {
        let mut drivers = Drivers::default();
        let error = drivers.load_balancer("edge").err().expect("nothing is configured");
        assert_eq!(error.to_string(), "there is no load balancer named `edge`; none is configured");
        drivers.load_balancers.insert("none".to_owned(), Arc::new(NoopLoadBalancer));
        drivers.executors.insert("local".to_owned(), Arc::new(NoopExecutor));
        drivers.executors.insert("salt".to_owned(), Arc::new(NoopExecutor));
        assert!(drivers.load_balancer("none").is_ok());
        let error = drivers.executor("ssh").err().expect("it is not configured");
        assert_eq!(
            DriverError::from(error),
            DriverError::Refused(
                "there is no executor named `ssh`; configured are: local, salt".to_owned()
            )
        );
    }
}
