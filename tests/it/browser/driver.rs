//! A small `WebDriver` client: what the browser test needs of the protocol, and no more.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, client, output, processes_with};

pub(super) const TAB: &str = "\u{E004}";
pub(super) const ENTER: &str = "\u{E007}";

const LOOK_EVERY: Duration = Duration::from_millis(50);
const FLAGS: [&str; 9] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];
/// Answers that another try may change: the page is being drawn again, or is not there yet.
const PASSING: [&str; 5] = [
    "no such element",
    "stale element reference",
    "element click intercepted",
    "element not interactable",
    "javascript error",
];
/// Counts the event streams that a page opens.
const COUNT_STREAMS: &str = "
    window.streamCount = 0;
    const Real = window.EventSource;
    window.EventSource = class extends Real {
        constructor(url) { super(url); window.streamCount += 1; }
    };";

/// A chromedriver that runs, with a folder for all that its browsers write.
pub(super) struct Driver {
    folder: tempfile::TempDir,
    child: Child,
    url: String,
}

impl Driver {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("chromedriver")
            .arg("--port=0")
            .env("TMPDIR", folder.path())
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(output::log_file(&log_in(folder.path())))
            .spawn()
            .expect("chromedriver runs; it comes with the package chromium-driver");
        let lines = output::lines(&mut child);
        let mut driver = Self { folder, child, url: String::new() };
        let port = tokio::task::spawn_blocking(move || {
            output::first(&lines, |line| {
                let (_, port) = line.split_once("successfully on port ")?;
                port.trim_end_matches('.').parse::<u16>().ok()
            })
        });
        let port = port.await.unwrap().expect("it tells its port");
        driver.url = format!("http://127.0.0.1:{port}");
        driver
    }

    /// A browser of its own: it shares nothing with the others.
    pub(super) async fn browser(&self) -> Browser {
        let profile = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        let mut flags: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
        flags.push(format!("--user-data-dir={}", profile.display()));
        let body = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": flags},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = format!("{}/session", self.url);
        let mut browser = Browser { client: client(), session };
        let answer = browser.call(Method::POST, "", Some(body)).await;
        let id = answer["sessionId"].as_str().expect("a session has an id").to_owned();
        browser.session = format!("{}/session/{id}", self.url);
        let script = json!({"source": COUNT_STREAMS});
        browser.devtools("Page.addScriptToEvaluateOnNewDocument", script).await;
        browser.size(1280, 900, 1).await;
        browser
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let group = format!("-{}", self.child.id());
        drop(Command::new("kill").args(["-9", "--", &group]).status());
        drop(self.child.wait());
        // Chromium puts itself into other groups; what it started dies with it.
        let mark = format!("TMPDIR={}", self.folder.path().display());
        for _ in 0..3 {
            for pid in processes_with(&mark) {
                let kill = Command::new("kill")
                    .args(["-9", &pid.to_string()])
                    .stderr(Stdio::null())
                    .status();
                drop(kill);
            }
        }
        output::show_if_failing(&log_in(self.folder.path()));
    }
}

fn log_in(folder: &Path) -> PathBuf {
    folder.join("log")
}

/// One browser with one tab.
pub(super) struct Browser {
    client: reqwest::Client,
    session: String,
}

impl Browser {
    /// Sends a command; what is wrong comes back as its code and message.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, (String, String)> {
        let mut request = self.client.request(method, format!("{}{path}", self.session));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        let value = &answer["value"];
        match value["error"].as_str() {
            Some(code) => Err((code.to_owned(), value["message"].to_string())),
            None => Ok(value.clone()),
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let told = format!("{method} {path}");
        self.send(method, path, body).await.unwrap_or_else(|error| panic!("{told}: {error:?}"))
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.call(Method::POST, "/goog/cdp/execute", Some(body)).await
    }

    pub(super) async fn open(&self, url: &str) {
        self.call(Method::POST, "/url", Some(json!({"url": url}))).await;
    }

    pub(super) async fn address(&self) -> String {
        self.call(Method::GET, "/url", None).await.as_str().unwrap().to_owned()
    }

    /// Runs the body of a function in the page.
    pub(super) async fn run(&self, script: &str, arguments: Value) -> Value {
        let body = json!({"script": script, "args": arguments});
        self.call(Method::POST, "/execute/sync", Some(body)).await
    }

    /// Does something with an element, named by a CSS selector or an `XPath`, as soon as it can be.
    async fn act(&self, place: &str, path: &str, body: &Value) {
        let deadline = Instant::now() + PATIENCE;
        let using = if place.starts_with('/') { "xpath" } else { "css selector" };
        loop {
            let find = json!({"using": using, "value": place});
            let outcome = match self.send(Method::POST, "/element", Some(find)).await {
                Ok(element) => {
                    let id = element.as_object().unwrap().values().next().unwrap();
                    let path = format!("/element/{}/{path}", id.as_str().unwrap());
                    self.send(Method::POST, &path, Some(body.clone())).await
                }
                Err(error) => Err(error),
            };
            let Err((code, message)) = outcome else { return };
            let is_late = Instant::now() > deadline || !PASSING.contains(&code.as_str());
            assert!(!is_late, "{path} {place}: {code}: {message}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(super) async fn click(&self, place: &str) {
        self.act(place, "click", &json!({})).await;
    }

    /// Clicks the button, link or summary with this text.
    pub(super) async fn press(&self, text: &str) {
        let which = "self::button or self::a or self::summary or self::option";
        self.click(&format!("//*[{which}][normalize-space()='{text}']")).await;
    }

    pub(super) async fn write(&self, place: &str, text: &str) {
        self.act(place, "clear", &json!({})).await;
        self.act(place, "value", &json!({"text": text})).await;
    }

    /// Presses and releases a key, wherever the focus is.
    pub(super) async fn key(&self, key: &str) {
        let actions =
            [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
        let body = json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]});
        self.call(Method::POST, "/actions", Some(body)).await;
    }

    /// Waits until an expression holds in the page.
    pub(super) async fn wait_until(&self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        let body = json!({"script": format!("return Boolean({expression})"), "args": []});
        loop {
            let outcome = self.send(Method::POST, "/execute/sync", Some(body.clone())).await;
            if outcome == Ok(Value::Bool(true)) {
                return;
            }
            if Instant::now() > deadline {
                let page = self.text("body").await;
                panic!("waited for {expression}: {outcome:?}\n{}: {page}", self.address().await);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until an element shows a text.
    pub(super) async fn wait_for(&self, place: &str, text: &str) {
        let (place, text) = (json!(place), json!(text));
        self.wait_until(&format!("document.querySelector({place})?.innerText.includes({text})"))
            .await;
    }

    /// What an element shows; nothing if it is not there.
    pub(super) async fn text(&self, place: &str) -> String {
        let script = "return document.querySelector(arguments[0])?.innerText ?? ''";
        self.run(script, json!([place])).await.as_str().unwrap().to_owned()
    }

    /// Sets the size of the window's inside, and how many dots a pixel has.
    pub(super) async fn size(&self, width: u32, height: u32, dots: u32) {
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": dots, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// What the browser wrote on its console since the last look.
    pub(super) async fn console(&self) -> Vec<String> {
        let log = self.call(Method::POST, "/se/log", Some(json!({"type": "browser"}))).await;
        log.as_array().unwrap().iter().map(|entry| entry["message"].to_string()).collect()
    }

    /// Writes the page from its top, down to its end or to a height.
    pub(super) async fn picture(&self, file: &Path, most: u32) {
        self.devtools("Emulation.setScrollbarsHidden", json!({"hidden": true})).await;
        let script = "return [innerWidth, document.body.scrollHeight]";
        let size = self.run(script, json!([])).await;
        let height = size[1].as_u64().unwrap().min(most.into());
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": height, "scale": 1});
        let wish = json!({"format": "png", "clip": clip, "captureBeyondViewport": true});
        let picture = self.devtools("Page.captureScreenshot", wish).await;
        self.devtools("Emulation.setScrollbarsHidden", json!({"hidden": false})).await;
        std::fs::write(file, STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()).unwrap();
    }

    pub(super) async fn close(self) {
        self.call(Method::DELETE, "", None).await;
    }
}
