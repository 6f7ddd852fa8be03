//! A form that a page posted, with its CSRF token checked.

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use capstan_portal::form::{
    ActionForm, BareForm, CutOffForm, PullOutForm, ReleaseForm, RollbackForm, SyncForm,
};
use serde::de::DeserializeOwned;

use crate::auth::{csrf_failed, same_secret};
use crate::extract::too_large;
use crate::portal::Visitor;
use crate::problem::Problem;

/// The fields of a form that one of our pages sent.
pub(super) struct Posted<T>(pub(super) T);

/// A form that carries the session's CSRF token.
pub(super) trait Guarded {
    fn csrf(&self) -> &str;
}

macro_rules! guarded {
    ($($form:ty),*) => {
        $(impl Guarded for $form {
            fn csrf(&self) -> &str {
                &self.csrf
            }
        })*
    };
}

guarded!(ActionForm, BareForm, CutOffForm, PullOutForm, ReleaseForm, RollbackForm, SyncForm);

impl<T: DeserializeOwned + Guarded, S: Send + Sync> FromRequest<S> for Posted<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let visitor = request.extensions().get::<Visitor>().cloned().ok_or_else(csrf_failed)?;
        let Form(form) =
            Form::<T>::from_request(request, state).await.map_err(|error| unreadable(&error))?;
        if same_secret(form.csrf(), &visitor.0.csrf) { Ok(Self(form)) } else { Err(csrf_failed()) }
    }
}

/// A form that cannot be read.
pub(super) fn unreadable(error: &FormRejection) -> Problem {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return too_large();
    }
    Problem::new(StatusCode::BAD_REQUEST, "form_unreadable", error.body_text())
}

impl<S: Send + Sync> FromRequestParts<S> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(csrf_failed)
    }
}
