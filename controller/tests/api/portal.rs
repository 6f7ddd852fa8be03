//! Pages and forms.

use axum::body::Body;
use axum::http::header::{ACCEPT, CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE};
use axum::http::{Method, Request};
use capstan_controller::Settings;

use crate::world::{Reply, World, id};

/// A browser with its cookies.
struct Browser<'a> {
    world: &'a World,
    cookie: String,
    csrf: String,
}

fn cookies(reply: &Reply) -> Vec<String> {
    let all = reply.headers.get_all(SET_COOKIE).iter();
    all.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
}

/// The value of a cookie that a reply sets.
fn cookie(reply: &Reply, name: &str) -> String {
    let all = cookies(reply);
    let found = all.iter().find_map(|text| text.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {all:?}")).split(';').next().unwrap_or("").into()
}

fn csrf_in(page: &str) -> String {
    let at = page.find("name=\"csrf\" value=\"").expect("a CSRF token in the page");
    page[at + 19..].split('"').next().unwrap_or_default().to_owned()
}

impl<'a> Browser<'a> {
    async fn sign_in(world: &'a World) -> Self {
        let mut browser = Self { world, cookie: String::new(), csrf: String::new() };
        let door = browser.get("/login").await;
        assert_eq!(door.status, 200);
        browser.cookie = format!("capstan_door={}", cookie(&door, "capstan_door"));
        browser.csrf = csrf_in(&door.text());
        let form = format!("token={}", world.token);
        let reply = browser.post("/login", &form).await;
        assert_eq!(reply.status, 303, "{}", reply.text());
        browser.enter(&reply).await;
        browser
    }

    async fn enter(&mut self, reply: &Reply) {
        let set = cookies(reply).join("\n");
        assert!(set.contains("HttpOnly; SameSite=Strict; Path=/; Max-Age=43200"), "{set}");
        self.cookie = format!("capstan_session={}", cookie(reply, "capstan_session"));
        self.csrf = csrf_in(&self.get("/").await.text());
    }

    async fn get(&self, path: &str) -> Reply {
        let request = Request::get(path).header(ACCEPT, "text/html").header(COOKIE, &self.cookie);
        self.world.send(request.body(Body::empty()).expect("a request")).await
    }

    async fn post(&self, path: &str, form: &str) -> Reply {
        let request = Request::post(path)
            .header(COOKIE, &self.cookie)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let body = format!("csrf={}&{form}", self.csrf);
        self.world.send(request.body(Body::from(body)).expect("a request")).await
    }
}

#[tokio::test]
async fn nobody_sees_a_page_without_signing_in() {
    let (world, ids) = World::with_group().await;
    let browser = Browser { world: &world, cookie: String::new(), csrf: String::new() };
    for path in ["/".to_owned(), format!("/groups/{}", ids.group)] {
        let reply = browser.get(&path).await;
        assert_eq!((reply.status.as_u16(), reply.header("location")), (303, "/login"));
    }
    let before = world.dump().await;
    let reply = browser.post(&format!("/groups/{}/rollback", ids.group), "").await;
    assert_eq!(reply.header("location"), "/login");
    let wrong = browser.post("/login", "token=cap_wrong").await;
    assert_eq!(wrong.status, 403, "without the token of the sign-in page");
    world.dump().await.assert_is(&before, "a refused call");
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let world = World::empty().await;
    let mut browser = Browser { world: &world, cookie: String::new(), csrf: String::new() };
    let door = browser.get("/login").await;
    browser.cookie = format!("capstan_door={}", cookie(&door, "capstan_door"));
    browser.csrf = csrf_in(&door.text());
    let reply = browser.post("/login", "token=cap_wrong").await;
    assert_eq!(reply.status, 401);
    assert!(reply.text().contains("This token is not known."));
    assert!(!cookies(&reply).iter().any(|text| text.starts_with("capstan_session")));
}

#[tokio::test]
async fn a_one_time_link_signs_in_once() {
    let world = World::empty().await;
    let link = world.controller.login_link(&world.token).await.expect("a link");
    assert!(world.controller.login_link("cap_wrong").await.is_err());
    let mut browser = Browser { world: &world, cookie: String::new(), csrf: String::new() };
    let head = Request::builder().method(Method::HEAD).uri(&link).body(Body::empty());
    assert_eq!(world.send(head.expect("a request")).await.status, 204);
    let reply = browser.get(&link).await;
    assert_eq!((reply.status.as_u16(), reply.header("location")), (303, "/"));
    browser.enter(&reply).await;
    assert_eq!(browser.get(&link).await.status, 401);
}

#[tokio::test]
async fn every_page_is_shown() {
    let (world, ids) = World::with_group().await;
    let deployment = world.start(&ids).await;
    let deployment = id(&deployment);
    let targets = world.items(&format!("/api/v1/deployments/{deployment}/targets")).await;
    let browser = Browser::sign_in(&world).await;
    for (path, text) in [
        ("/".to_owned(), "web"),
        ("/?application=web".to_owned(), "web"),
        (format!("/groups/{}", ids.group), "web-1"),
        (format!("/deployments/{deployment}"), "1.1.0"),
        (format!("/deployments/{deployment}/live"), "1.1.0"),
        (format!("/deployments/{deployment}/targets"), "web-1"),
        (format!("/deployments/{deployment}/targets?batch=1"), "web-1"),
        (format!("/deployments/{deployment}/actions"), "deployment.create"),
        (format!("/targets/{}", id(&targets[0])), "web-1"),
    ] {
        let page = browser.get(&path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text());
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(page.header("cache-control"), "no-store");
        assert!(page.text().contains(text), "{path}: {}", page.text());
    }
    let missing = browser.get("/groups/0193a5c0-0000-7000-8000-00000000dead").await;
    assert_eq!(missing.status, 404);
    assert!(missing.header("content-type").starts_with("text/html"));
    assert_eq!(browser.get("/groups/web").await.status, 400);
    let missing = browser.get("/deployments/0193a5c0-0000-7000-8000-00000000dead/targets").await;
    assert_eq!(missing.status, 404);
    assert!(missing.text().contains("Go to Groups"), "nothing to go back to: {}", missing.text());
}

#[tokio::test]
async fn a_release_is_made_by_forms() {
    let (world, ids) = World::with_group().await;
    let browser = Browser::sign_in(&world).await;
    let package = world.get("/api/v1/packages/web/1.1.0").await.expect(200);
    let form = format!("package={}&flavor=rollout&max_unavailable=20", id(&package));
    let group = format!("/groups/{}", ids.group);
    let preview = browser.post(&format!("{group}/preview"), &form).await;
    assert_eq!(preview.status, 200, "{}", preview.text());
    assert!(preview.text().contains("plan_hash"));
    let bad = format!("package={}&max_unavailable=99", id(&package));
    let refused = browser.post(&format!("{group}/preview"), &bad).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("99"));
    let stale = format!("{form}&plan_hash={}", "0".repeat(64));
    let stale = browser.post(&format!("{group}/deployments"), &stale).await;
    assert_eq!(stale.status, 422, "{}", stale.text());
    assert!(stale.text().contains("The plan has changed meanwhile"));
    assert_eq!(world.items("/api/v1/deployments").await.len(), 0);

    let created =
        browser.post(&format!("{group}/deployments"), &format!("{form}&start=true")).await;
    assert_eq!(created.status, 303, "{}", created.text());
    let page = created.headers[LOCATION].to_str().expect("a path").to_owned();
    assert!(browser.get(&page).await.text().contains("1.1.0"));
    let braked = browser.post(&format!("{page}/brake"), "").await;
    assert_eq!((braked.status.as_u16(), braked.header("location")), (303, page.as_str()));
    let refused = browser.post(&format!("{page}/bake"), "").await;
    assert_eq!(refused.status, 409);
    let text = refused.text();
    assert!(text.contains("Allowed now") && text.contains("resume"), "{text}");
    let refused = browser.post(&format!("{group}/rollback"), "").await;
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("no older version"));
}

#[tokio::test]
async fn servers_and_groups_are_handled_by_forms() {
    let (world, ids) = World::with_group().await;
    let browser = Browser::sign_in(&world).await;
    let group = format!("/groups/{}", ids.group);
    let synced = browser.post(&format!("{group}/sync"), "").await;
    assert_eq!((synced.status.as_u16(), synced.header("location")), (303, group.as_str()));
    let servers = world.items(&format!("/api/v1{group}/servers")).await;
    let server = id(&servers[2]);
    let pulled = browser.post(&format!("/servers/{server}/pull-out"), "reason=disk").await;
    assert_eq!(pulled.status, 303, "{}", pulled.text());
    let shown = world.get(&format!("/api/v1/servers/{server}")).await.expect(200);
    assert_eq!(shown["pulled_out"]["reason"], "disk");
    let back = browser.post(&format!("/servers/{server}/put-back"), "").await;
    assert_eq!(back.status, 303, "{}", back.text());
    assert_eq!(browser.post(&format!("/servers/{server}/pull-out"), "reason=").await.status, 422);
}

#[tokio::test]
async fn a_dependency_is_cut_off_and_restored_by_forms() {
    let (world, _) = World::with_group().await;
    let browser = Browser::sign_in(&world).await;
    assert!(browser.get("/").await.text().contains("href=\"/dependencies\""), "it is linked");
    let edge = "/dependencies/load_balancer.edge";
    let cut = browser.post(&format!("{edge}/cut-off"), "reason=ticket+17&minutes=120").await;
    assert_eq!((cut.status.as_u16(), cut.header("location")), (303, "/dependencies"));
    let page = browser.get("/dependencies").await;
    let text = page.text();
    for wanted in ["Cut off by", "admin", "ticket 17", "It ends by itself", "Restore"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let restored = browser.post(&format!("{edge}/restore"), "").await;
    assert_eq!(restored.status, 303);
    assert!(!browser.get("/dependencies").await.text().contains("ticket 17"));
    for bad in
        ["reason=", "reason=x&minutes=soon", "reason=x&minutes=0", "reason=x&minutes=99999999"]
    {
        let refused = browser.post(&format!("{edge}/cut-off"), bad).await;
        assert_eq!(refused.status, 422, "{bad}");
        assert!(refused.text().contains("Go to the dependencies"), "{}", refused.text());
    }
    let unknown = browser.post("/dependencies/load_balancer.mars/cut-off", "reason=x").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("load_balancer.edge"), "{}", unknown.text());
}

#[tokio::test]
async fn a_form_without_the_sessions_csrf_token_changes_nothing() {
    let (world, ids) = World::with_group().await;
    let deployment = world.start(&ids).await;
    let mut browser = Browser::sign_in(&world).await;
    let path = format!("/deployments/{}/brake", id(&deployment));
    let edge = "/dependencies/load_balancer.edge/cut-off";
    let before = world.dump().await;
    let csrf = std::mem::replace(&mut browser.csrf, "wrong".into());
    assert_eq!(browser.post(&path, "").await.status, 403);
    assert_eq!(browser.post(edge, "reason=x").await.status, 403);
    let send = async |name: &str, value: &str, method: Method, path: &str| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(COOKIE, &browser.cookie)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(name, value);
        let body = Body::from(format!("csrf={csrf}"));
        world.send(request.body(body).expect("a request")).await
    };
    let cross = send("sec-fetch-site", "cross-site", Method::POST, &path).await;
    assert_eq!(cross.status, 403);
    // The API takes the session for reading; for writing it wants the token in a header.
    let api = format!("/api/v1{path}");
    assert_eq!(send("x-none", "", Method::GET, "/api/v1/groups").await.status, 200);
    send("x-none", "", Method::POST, &api).await.problem(403, "csrf");
    send("x-capstan-csrf", "wrong", Method::POST, &api).await.problem(403, "csrf");
    world.dump().await.assert_is(&before, "a refused call");
    let request =
        Request::post(&api).header(COOKIE, &browser.cookie).header("x-capstan-csrf", &csrf);
    let braked = world.send(request.body(Body::empty()).expect("a request")).await.expect(200);
    assert_eq!(braked["shown_status"], "SMOKE_BRAKED");
}

#[tokio::test]
async fn signing_out_ends_the_session() {
    let world = World::with(Settings { secure_cookies: true, ..Settings::default() }).await;
    let link = world.controller.login_link(&world.token).await.expect("a link");
    let mut browser = Browser { world: &world, cookie: String::new(), csrf: String::new() };
    let reply = browser.get(&link).await;
    assert!(cookies(&reply).iter().all(|text| text.ends_with("; Secure")));
    browser.enter(&reply).await;
    let out = browser.post("/logout", "").await;
    assert_eq!((out.status.as_u16(), out.header("location")), (303, "/login"));
    assert!(cookies(&out).iter().any(|text| text.contains("Max-Age=0")));
    assert_eq!(browser.get("/").await.header("location"), "/login");
}

#[tokio::test]
async fn assets_may_be_kept_for_ever() {
    let world = World::empty().await;
    let door = Browser { world: &world, cookie: String::new(), csrf: String::new() };
    let page = door.get("/login").await.text();
    let at = page.find("/assets/portal.css").expect("a style sheet");
    let linked = page[at..].split('"').next().unwrap_or_default();
    let style = door.get(linked).await;
    assert_eq!(style.header("content-type"), "text/css; charset=utf-8");
    assert!(style.header("cache-control").contains("immutable"));
    assert_eq!(door.get("/assets/portal.css").await.header("cache-control"), "no-cache");
    assert_eq!(door.get("/assets/nothing").await.status, 404);
}
