//! A browser without a screen: it keeps cookies, sends forms as it finds them, and reads live streams.

use std::collections::BTreeMap;

use capstan_core::event::Event;
use reqwest::header::{ACCEPT, CONTENT_TYPE, COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};

use crate::harness::PATIENCE;

/// The one name under which a browser knows every controller, as behind a proxy: its cookies and its forms
/// belong to it.
const NAME: &str = "localhost";
/// What the pages' own script sends with every write.
const CSRF_HEADER: &str = "x-capstan-csrf";

/// A page, or what came in its place.
pub(super) struct Page {
    pub(super) status: StatusCode,
    /// Where it leads.
    pub(super) location: Option<String>,
    pub(super) text: String,
}

impl Page {
    /// The fields that a form has in it.
    fn form(&self, action: &str) -> Vec<(String, String)> {
        let mark = format!("action=\"{action}\"");
        let forms = self.text.split("<form").skip(1);
        let form = forms.filter_map(|it| it.split("</form>").next()).find(|it| it.contains(&mark));
        let form = form.unwrap_or_else(|| panic!("no form goes to {action}: {}", self.text));
        let inputs = form.split("<input type=\"hidden\"").skip(1);
        inputs.map(|it| (attribute(it, "name"), attribute(it, "value"))).collect()
    }

    /// The token that a form carries.
    pub(super) fn csrf(&self, action: &str) -> String {
        let fields = self.form(action);
        fields.into_iter().find(|(name, _)| name == "csrf").expect("a token").1
    }

    /// The first attribute of this name.
    pub(super) fn attribute(&self, name: &str) -> String {
        attribute(&self.text, name)
    }

    /// What this answer is about, in short.
    pub(super) fn said(&self) -> (StatusCode, Option<&str>) {
        (self.status, self.location.as_deref())
    }
}

fn attribute(text: &str, name: &str) -> String {
    let (_, rest) = text.split_once(&format!(" {name}=\"")).unwrap_or_else(|| panic!("no {name}"));
    rest.split('"').next().unwrap().replace("&amp;", "&")
}

/// Who looks at pages.
#[derive(Clone)]
pub(super) struct Visitor {
    client: Client,
    cookies: BTreeMap<String, String>,
}

impl Visitor {
    /// Signs in: the door is loaded at one address, and its form goes to another.
    pub(super) async fn sign_in(door: &str, at: &str, token: &str) -> Self {
        let client = Client::builder().timeout(PATIENCE).redirect(Policy::none()).build().unwrap();
        let mut visitor = Self { client, cookies: BTreeMap::new() };
        let page = visitor.open(door, "/login").await;
        let mut fields = page.form("/login");
        fields.push(("token".to_owned(), token.to_owned()));
        let entered = visitor.post(at, "/login", &fields).await;
        assert_eq!(entered.said(), (StatusCode::SEE_OTHER, Some("/")), "{}", entered.text);
        visitor
    }

    pub(super) async fn open(&mut self, at: &str, path: &str) -> Page {
        let request = self.request(Method::GET, at, path);
        self.answered(request).await
    }

    /// Presses the button of a form on a page; whoever is reached at `at` gets it.
    pub(super) async fn press(&mut self, page: &Page, action: &str, at: &str) -> Page {
        self.post(at, action, &page.form(action)).await
    }

    /// A call of the API as the pages' script makes it, with the token that their forms carry.
    pub(super) async fn call(&mut self, at: &str, path: &str, csrf: Option<&str>) -> Page {
        let mut request =
            self.request(Method::POST, at, path).header(CONTENT_TYPE, "application/json");
        if let Some(csrf) = csrf {
            request = request.header(CSRF_HEADER, csrf);
        }
        self.answered(request.body("{}")).await
    }

    async fn post(&mut self, at: &str, path: &str, fields: &[(String, String)]) -> Page {
        let encoded = Url::parse_with_params("http://form/", fields).unwrap();
        let request = self
            .request(Method::POST, at, path)
            .header(ORIGIN, format!("http://{NAME}"))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(encoded.query().unwrap_or_default().to_owned());
        self.answered(request).await
    }

    fn request(&self, method: Method, at: &str, path: &str) -> RequestBuilder {
        let pairs: Vec<_> = self.cookies.iter().map(|(name, it)| format!("{name}={it}")).collect();
        let request = self.client.request(method, format!("{at}{path}")).header(HOST, NAME);
        request.header(COOKIE, pairs.join("; "))
    }

    /// Sends a request, and keeps and forgets cookies as the answer says.
    async fn answered(&mut self, request: RequestBuilder) -> Page {
        let answer = request.send().await.unwrap();
        for cookie in answer.headers().get_all(SET_COOKIE) {
            let mut parts = cookie.to_str().unwrap().split("; ");
            let (name, value) = parts.next().unwrap().split_once('=').unwrap();
            if parts.any(|part| part == "Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let location = answer.headers().get(LOCATION).map(|it| it.to_str().unwrap().to_owned());
        Page { status: answer.status(), location, text: answer.text().await.unwrap() }
    }

    /// Opens a live stream; `last` is what a browser that comes again has read already.
    pub(super) async fn listen(&self, at: &str, path: &str, last: Option<i64>) -> Live {
        let mut request = self.request(Method::GET, at, path).header(ACCEPT, "text/event-stream");
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path} at {at}");
        Live { answer, read: Vec::new() }
    }
}

/// A live stream.
pub(super) struct Live {
    answer: Response,
    /// What was read and is not complete yet.
    read: Vec<u8>,
}

/// What a live stream tells.
#[derive(Debug)]
pub(super) enum Told {
    Event(Box<Event>),
    /// All was told.
    End,
}

impl Live {
    /// Waits for what is told next.
    pub(super) async fn next(&mut self) -> Told {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("something is told in time")
    }

    async fn read(&mut self) -> Told {
        loop {
            while let Some(end) = self.read.windows(2).position(|it| it == b"\n\n") {
                let message: Vec<u8> = self.read.drain(..end + 2).collect();
                if let Some(told) = told(std::str::from_utf8(&message).unwrap()) {
                    return told;
                }
            }
            let piece = self.answer.chunk().await.unwrap().expect("a stream that goes on");
            self.read.extend_from_slice(&piece);
        }
    }
}

/// A message; none: a comment, which keeps the connection open.
fn told(message: &str) -> Option<Told> {
    let field =
        |name: &str| message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let kind = field("event")?;
    if kind == "end" {
        return Some(Told::End);
    }
    let event: Event = serde_json::from_str(field("data").unwrap()).unwrap();
    assert_eq!((field("id"), kind), (Some(event.seq.to_string().as_str()), event.kind.word()));
    Some(Told::Event(Box::new(event)))
}
