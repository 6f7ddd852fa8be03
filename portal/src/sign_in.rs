//! The page of somebody who is not signed in.

use maud::{Markup, html};

use crate::frame::{hidden, shell};

/// The sign-in page. `csrf` is the token of the session that is not signed in yet; `error` is said
/// above the field.
pub fn sign_in(csrf: &str, error: Option<&str>) -> Markup {
    let content = html! {
        div.gate {
            h1 { "Sign in" }
            p.lead { "Capstan puts releases on your servers, batch by batch." }
            form.stack method="post" action="/login" {
                (hidden("csrf", csrf))
                @if let Some(error) = error {
                    p.banner.bad role="alert" id="token-error" { (error) }
                }
                // Tells the browser's password store whose token it is; it is not sent.
                input hidden type="text" autocomplete="username" value="capstan" readonly;
                div.field {
                    label for="token" { "Access token" }
                    input id="token" name="token" type="password" required autofocus
                        autocomplete="current-password" spellcheck="false"
                        aria-invalid=[error.map(|_| "true")]
                        aria-describedby=(if error.is_some() { "token-error token-hint" } else { "token-hint" });
                    p.hint id="token-hint" { "The token that you also use on the command line." }
                }
                button.primary type="submit" { "Sign in" }
            }
        }
    };
    shell("Sign in", None, &content)
}
