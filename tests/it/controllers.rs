//! Several controllers and portals behind one name, and an engine elsewhere: whichever of them a browser reaches, its
//! session, its forms and its live streams are the same.

mod visitor;

use capstan_core::event::{Event, EventType};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::Demo;
use crate::many::{Process, assert_rules, create, drive};
use visitor::{Live, Told, Visitor};

/// How many events are read in one place before the next is asked.
const EACH: usize = 5;

/// All processes.
struct Fleet {
    /// A controller with pages.
    demo: Demo,
    /// Another one, pages alone, and a controller alone.
    others: [(Process, String); 3],
    _engine: Process,
}

impl Fleet {
    async fn start() -> Self {
        let demo = Demo::start_without_engine(4).await;
        let (inventory, packages) =
            (demo.data().join("inventory.yaml"), demo.data().join("packages"));
        let environment = [
            ("CAPSTAN__CMDB__PATH", inventory.to_str().unwrap()),
            ("CAPSTAN__PACKAGES__PATH", packages.to_str().unwrap()),
        ];
        let start = async |roles| {
            let process = Process::with_roles(&demo, roles, &environment);
            let url = process.url().await;
            (process, url)
        };
        let others =
            [start("controller,portal").await, start("portal").await, start("controller").await];
        Self { _engine: Process::engine(&demo), demo, others }
    }

    /// Where they answer: two controllers with pages, pages alone, and a controller alone.
    fn urls(&self) -> [&str; 4] {
        let [second, pages, api] = &self.others;
        [&self.demo.url, &second.1, &pages.1, &api.1]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_good_and_ends_whichever_process_a_browser_reaches() {
    let fleet = Fleet::start().await;
    let [first, second, pages, api] = fleet.urls();
    let (demo, token) = (&fleet.demo, &fleet.demo.token);
    let mut browser = Visitor::sign_in(first, first, token).await;
    let mut other = Visitor::sign_in(pages, second, token).await;

    // A form works wherever it is sent to, wherever its page was loaded.
    let deployment = create(demo, "1.1.0").await;
    demo.wait_for(&deployment, "SMOKE_SUCCESS").await;
    let path = format!("/deployments/{deployment}");
    let action = |word: &str| format!("{path}/{word}");
    let page = browser.open(second, &path).await;
    assert_eq!(page.status, StatusCode::OK);
    let pressed = browser.press(&page, &action("bake"), second).await;
    assert_eq!(pressed.said(), (StatusCode::SEE_OTHER, Some(path.as_str())), "{}", pressed.text);
    demo.wait_for(&deployment, "BAKE_SUCCESS").await;
    let page = browser.open(first, &path).await;
    let pressed = browser.press(&page, &action("rollout"), pages).await;
    assert_eq!(pressed.said(), (StatusCode::SEE_OTHER, Some(path.as_str())), "{}", pressed.text);
    drive(demo, &deployment).await;
    demo.assert_all_run("1.1.0").await;
    assert_rules(&demo.events(&deployment).await);

    // Where there are no pages, the session is good for the API, with the token that the pages carry.
    assert_eq!(browser.open(api, "/").await.status, StatusCode::NOT_FOUND);
    let sync = format!("/api/v1/groups/{}/sync", demo.group().await.id);
    assert_eq!(browser.call(api, &sync, None).await.status, StatusCode::FORBIDDEN);
    let page = browser.open(pages, "/").await;
    let csrf = page.csrf("/logout");
    assert_eq!(browser.call(api, &sync, Some(&csrf)).await.status, StatusCode::OK);

    // The token of another session is refused, and a session that was closed is closed everywhere.
    let refused = other.press(&page, "/logout", first).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let mut copied = browser.clone();
    let left = browser.press(&page, "/logout", second).await;
    assert_eq!(left.said(), (StatusCode::SEE_OTHER, Some("/login")), "{}", left.text);
    for at in [first, second, pages] {
        for visitor in [&mut browser, &mut copied] {
            let shown = visitor.open(at, &path).await;
            assert_eq!(shown.said(), (StatusCode::SEE_OTHER, Some("/login")), "{at}");
        }
        assert_eq!(other.open(at, &path).await.status, StatusCode::OK, "{at}: not its session");
    }
    let asked = copied.open(api, "/api/v1/groups").await;
    assert_eq!(asked.status, StatusCode::UNAUTHORIZED, "{}", asked.text);
    assert_eq!(other.open(api, "/api/v1/groups").await.status, StatusCode::OK);
}

/// A stream is opened in one process before another starts the deployment, and is gone on with in all of them in turn:
/// nothing is missing, and nothing comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_goes_on_whichever_process_a_browser_reaches() {
    let fleet = Fleet::start().await;
    let [first, second, pages, api] = fleet.urls();
    let demo = &fleet.demo;
    let mut browser = Visitor::sign_in(first, first, &demo.token).await;
    let body = json!({"group": demo.group().await.id, "package": "1.1.0", "start": false});
    let (status, answer) = demo.call(Method::POST, "deployments", Some(body)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let deployment = answer["id"].as_str().unwrap();

    let page = browser.open(second, &format!("/deployments/{deployment}")).await;
    let path = page.attribute("data-events-url");
    let before = demo.events(deployment).await;
    let mut live = browser.listen(second, &path, None).await;
    demo.act(deployment, "start").await;
    let mut told = Vec::new();
    assert!(!read(&mut live, EACH, &mut told).await, "it has just begun");
    let is_start = |event: &Event| event.kind == EventType::DeploymentStatus;
    assert_eq!(told[0].seq, before.last().unwrap().seq + 1, "what the page shows is not told");
    assert!(told.iter().any(is_start), "{told:?}");

    let follow = async {
        let mut places = [first, pages, api, second].into_iter().cycle();
        loop {
            let at = places.next().unwrap();
            let last = told.last().map(|event| event.seq);
            let mut live = browser.listen(at, &path, last).await;
            if read(&mut live, EACH, &mut told).await {
                return told;
            }
        }
    };
    let (told, ()) = futures::join!(follow, drive(demo, deployment));
    let all = demo.events(deployment).await;
    assert_eq!(told, all[before.len()..]);
    assert!(told.len() > 4 * EACH, "each of them told something: {}", told.len());
    assert_rules(&all);
}

/// Reads so many events, or those up to the end; whether it has ended.
async fn read(live: &mut Live, count: usize, told: &mut Vec<Event>) -> bool {
    for _ in 0..count {
        match live.next().await {
            Told::Event(event) => told.push(*event),
            Told::End => return true,
        }
    }
    false
}
