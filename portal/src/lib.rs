//! The pages: server-rendered HTML from the views of `capstan-core`; decides nothing.
//!
//! Every page is a pure function from views to [`maud::Markup`]. The crate does no I/O, knows no
//! routes but the links and forms that it writes, and decides nothing: which buttons are live, what
//! a deployment waits for and why a brake holds come in as data. The controller owns routing,
//! sessions and CSRF tokens. The only arrow points to `capstan-core`.
//!
//! * [`Chrome`] is what every page needs besides its own input: who is signed in, the CSRF token,
//!   the present instant.
//! * [`assets`] holds the one style sheet, the one script and the icon.
//! * [`form`] reads what the forms post.
//! * [`deployment_live`] gives the part of the deployment page that `portal.js` fetches again when
//!   the event stream says that something happened; without the script a reload does the same.
//!
//! The pages keep to the policy in [`CONTENT_SECURITY_POLICY`]: no inline script, no inline style, no
//! event handler attributes. Widths of bars are attributes of SVG rectangles.

pub mod assets;
pub mod form;

mod audit;
mod dependencies;
mod deployment;
mod error_page;
mod frame;
mod group;
mod groups;
mod line;
mod moment;
mod preview;
mod release_form;
mod sign_in;
mod target;
mod targets;
mod tone;

pub use audit::audit;
pub use dependencies::dependencies;
pub use deployment::{DeploymentPage, MOST_TILES, deployment, deployment_live};
pub use error_page::{ErrorPage, error};
pub use frame::{Chrome, Notice};
pub use group::{GroupPage, RollbackOffer, group};
pub use groups::{GroupsPage, groups};
pub use preview::{PreviewPage, preview};
pub use sign_in::sign_in;
pub use target::{TargetPage, target};
pub use targets::{TargetsPage, targets};
pub use tone::Tone;

/// The value of the `Content-Security-Policy` header that the pages are written for.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; \
     style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'";
