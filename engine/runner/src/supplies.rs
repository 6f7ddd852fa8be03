//! What an order needs of the store: its script, and where hosts find its package.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use capstan_core::dependency::PACKAGES;
use capstan_core::ports::{DriverError, Script};
use capstan_core::record::Location;
use capstan_store::chain;

use crate::job::Context;

/// How long a package's locations are taken from memory.
const LOCATIONS_KEPT: Duration = Duration::from_secs(10);

/// A package's locations, and when they were read.
pub(crate) type ReadLocations = (tokio::time::Instant, Arc<Vec<Location>>);

impl Context {
    /// A script by its digest, from memory or the store.
    pub(crate) async fn script(&self, sha256: &str) -> Result<Arc<Script>, DriverError> {
        let kept = self.scripts.lock().unwrap_or_else(PoisonError::into_inner).get(sha256).cloned();
        if let Some(script) = kept {
            return Ok(script);
        }
        match self.store.script(sha256).await {
            Ok(Some(script)) => {
                let script = Arc::new(script);
                let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
                scripts.insert(sha256.to_owned(), Arc::clone(&script));
                Ok(script)
            }
            Ok(None) => Err(DriverError::Refused(format!("the script {sha256} is not stored"))),
            Err(error) => Err(unread(&error)),
        }
    }

    /// URLs of a package, the nearest first.
    pub(crate) async fn package_urls(
        &self,
        sha256: &str,
        idc: &str,
    ) -> Result<String, DriverError> {
        let locations = self.locations(sha256).await?;
        let own = self.settings.package_base_url.as_str();
        let (near, far): (Vec<&Location>, Vec<&Location>) =
            locations.iter().partition(|location| location.idc == idc && !idc.is_empty());
        let mut urls: Vec<String> = near.into_iter().map(|location| location.url.clone()).collect();
        // The next store in the list, or what the host has kept: a store that is away is not waited for.
        if !own.is_empty() && self.ports.breakers.is_usable(PACKAGES) {
            urls.push(format!("{own}/packages/{sha256}.tar.gz"));
        }
        urls.extend(far.into_iter().map(|location| location.url.clone()));
        Ok(urls.join(" "))
    }

    async fn locations(&self, sha256: &str) -> Result<Arc<Vec<Location>>, DriverError> {
        let kept =
            self.locations.lock().unwrap_or_else(PoisonError::into_inner).get(sha256).cloned();
        if let Some((read_at, locations)) = kept
            && read_at.elapsed() < LOCATIONS_KEPT
        {
            return Ok(locations);
        }
        let packages = self.store.packages_by_digest(sha256).await;
        let packages = packages.map_err(|error| unread(&error))?;
        let all: Vec<Location> =
            packages.into_iter().flat_map(|package| package.locations).collect();
        let locations = Arc::new(all);
        let mut kept = self.locations.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (read_at, _)| read_at.elapsed() < LOCATIONS_KEPT);
        kept.insert(sha256.to_owned(), (tokio::time::Instant::now(), Arc::clone(&locations)));
        Ok(locations)
    }
}

/// A database that does not answer is asked again. What cannot be read when it does is damaged, and stays so.
fn unread(error: &capstan_store::Error) -> DriverError {
    if error.is_unavailable() {
        DriverError::Busy(chain(error))
    } else {
        DriverError::Refused(chain(error))
    }
}
