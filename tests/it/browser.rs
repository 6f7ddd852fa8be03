//! The whole story by the portal, clicked in a real browser: a good release, a bad one, a way back, a
//! brake and its repair, and what else a person does by hand; by keyboard too, and in a narrow window.
//!
//! With `CAPSTAN_PICTURES=docs/pictures` it takes the pictures of the README on its way.

mod driver;
mod steering;

use std::path::PathBuf;

use serde_json::json;

use crate::harness::Demo;
use driver::{Browser, Driver, ENTER, TAB};

const HOSTS: u16 = 8;
const NARROW: u32 = 360;
const WIDE: u32 = 1280;

/// Whether the page is as wide as the window, folded and unfolded; what sticks out if not.
const STICKING_OUT: &str = "
    const look = () => document.documentElement.scrollWidth <= innerWidth ? [] :
        [...document.querySelectorAll('body *')]
            .filter((one) => one.getBoundingClientRect().right > innerWidth)
            .map((one) => `${one.tagName} #${one.id} .${one.className}`);
    const folded = [...document.querySelectorAll('details:not([open])')];
    const wide = look();
    folded.forEach((one) => { one.open = true; });
    wide.push(...look());
    folded.forEach((one) => { one.open = false; });
    return wide;";

/// What has the focus, and how wide its ring is.
const FOCUS: &str = "
    const style = getComputedStyle(document.activeElement);
    const ring = document.activeElement.matches(':focus-visible') && style.outlineStyle === 'solid';
    return [
        document.activeElement.id || document.activeElement.innerText,
        ring ? parseFloat(style.outlineWidth) : 0,
    ];";

struct Story {
    demo: Demo,
    browser: Browser,
    pictures: Option<PathBuf>,
}

#[tokio::test]
async fn the_whole_story_is_clicked_in_a_browser() {
    let demo = Demo::start(HOSTS).await;
    let driver = Driver::start().await;
    let browser = driver.browser().await;
    demo.settle_for(1).await;
    let pictures = std::env::var_os("CAPSTAN_PICTURES")
        .map(|folder| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder));
    let story = Story { demo, browser, pictures };

    story.browser.open(&story.demo.link).await;
    story.browser.wait_for("h1", "Groups").await;
    story.release_a_good_version().await;
    story.release_a_bad_version_by_keyboard_and_roll_back().await;
    let broken = story.release_to_a_broken_fleet_and_repair_it().await;
    story.read_what_happened().await;
    story.put_back(&broken).await;
    story.start_batches_by_hand_and_revoke().await;
    story.finish_a_failed_release().await;
    story.confirm_a_refresh_that_is_held().await;
    assert_eq!(story.browser.console().await, Vec::<String>::new());
    story.post_what_cannot_be_done().await;
    story.come_as_a_stranger(&driver).await;
}

impl Story {
    async fn release_a_good_version(&self) {
        let browser = &self.browser;
        browser.wait_for("table", "1.0.0").await;
        self.fits("the groups").await;
        self.open_the_group().await;
        self.fits("the group").await;
        self.fill_in("1.1.0").await;
        browser.press("Preview").await;
        browser.wait_for("h1", "Preview: 1.1.0 to web-demo").await;
        assert!(browser.text("main").await.contains("8\nof 8 in the group"));
        self.fits("the preview").await;
        self.picture("preview", 845).await;
        browser.press("Create and start").await;

        self.watch_until("SMOKE_SUCCESS").await;
        self.fits("a deployment that waits").await;
        self.ask("bake").await;
        self.watch_until("BAKE_SUCCESS").await;
        self.ask("rollout").await;
        browser.wait_for("#batch-2 .badge", "SUCCESS").await;
        browser.wait_until("document.querySelector('.tile.running')").await;
        self.picture("deployment", 1348).await;
        self.watch_until("SUCCESS").await;
        self.fits("a deployment that ended").await;
        self.demo.assert_all_run("1.1.0").await;
    }

    async fn release_a_bad_version_by_keyboard_and_roll_back(&self) {
        let browser = &self.browser;
        // It fails two seconds after its start: Verify has to look for longer than that.
        self.demo.settle_for(5).await;
        self.open_the_group().await;
        self.tab_to("Skip to content").await;
        self.tab_to("package").await;
        for key in ["1", ".", "2"] {
            browser.key(key).await;
        }
        self.tab_to("Preview").await;
        browser.key(ENTER).await;
        browser.wait_for("h1", "Preview: 1.2.0").await;
        self.tab_to("Create and start").await;
        browser.key(ENTER).await;

        self.watch_until("SMOKE_FAILURE").await;
        browser.wait_for(".tile.bad .message", "health").await;
        self.demo.settle_for(1).await;
        browser.press("Roll back…").await;
        browser.click("#do-rollback").await;
        browser.wait_for("h1", "Rollback of web-demo to 1.1.0").await;
        self.watch_until("SUCCESS").await;
        self.demo.assert_all_run("1.1.0").await;
        self.open_the_group().await;
        let versions = browser.text("[aria-labelledby=versions-title]").await;
        assert!(versions.contains("8 (100 %)"), "{versions}");
    }

    /// Gives the server that was pulled out.
    async fn release_to_a_broken_fleet_and_repair_it(&self) -> String {
        let browser = &self.browser;
        let faults = (2..=usize::from(HOSTS)).map(|place| self.demo.root(place).join("fault"));
        for fault in faults.clone() {
            std::fs::write(fault, "").unwrap();
        }
        self.fill_in("1.0.0").await;
        browser.write("#max_unavailable", "30").await;
        browser.press("Preview").await;
        browser.press("Create and start").await;
        self.ask("bake").await;
        self.ask("rollout").await;
        self.watch_until("ROLLOUT_BRAKED").await;
        browser.wait_for("#holds", "Braked by failures").await;
        browser.wait_for("#batch-3", "held by the brake").await;
        browser.wait_until("document.querySelectorAll('.tile.bad .message').length === 2").await;
        self.fits("a braked deployment").await;
        self.picture("braked", 1418).await;
        browser.size(NARROW, 780, 2).await;
        self.picture("narrow", 900).await;
        browser.size(WIDE, 900, 1).await;

        let deployment = browser.address().await;
        let broken = browser.text(".tile.bad .host").await;
        for fault in faults {
            std::fs::remove_file(fault).unwrap();
        }
        self.open_the_group().await;
        let row = format!("//tr[.//span[normalize-space()='{broken}']]");
        browser.click(&format!("{row}//summary")).await;
        browser.click(&format!("{row}//input[@name='reason']")).await;
        browser.write(&format!("{row}//input[@name='reason']"), "its disk is failing").await;
        browser.click(&format!("{row}//button[normalize-space()='Pull out']")).await;
        browser.wait_for("#servers .pulled", "its disk is failing").await;
        self.fits("a group with a server pulled out").await;
        self.picture("group", 1802).await;
        browser.open(&self.demo.url).await;
        self.picture("groups", 845).await;
        browser.open(&deployment).await;
        self.ask("retry").await;
        self.watch_until("SUCCESS").await;
        browser.wait_for("#course", "1 set aside").await;
        broken
    }

    /// Targets, a log, and who asked for what.
    async fn read_what_happened(&self) {
        let browser = &self.browser;
        let deployment = browser.address().await;
        browser.press("All targets").await;
        browser.wait_for("h1", "Targets").await;
        browser.wait_for("table", "SET_ASIDE").await;
        self.fits("the targets").await;
        browser.click("//td[.//span[contains(., 'attempt 2')]]/../th/a").await;
        browser.wait_for(".log[open] pre", "1.0.0").await;
        self.fits("a target").await;
        self.picture("target", 480).await;
        browser.open(&deployment).await;
        browser.press("Who asked for what").await;
        browser.wait_for("table", "deployment.retry").await;
        browser.wait_for("table", "admin").await;
        self.fits("the actions").await;
    }

    /// Answers that are errors: the browser notes their status on its console, and nothing else.
    async fn post_what_cannot_be_done(&self) {
        let browser = &self.browser;
        self.open_the_group().await;
        self.fill_in("1.1.0").await;
        browser.write("#batch_pattern", "10%+20%").await;
        browser.press("Preview").await;
        browser.wait_for("[role=alert]", "See the marked fields").await;
        browser.wait_until("document.querySelector('#batch_pattern[aria-invalid=true]')").await;
        self.fits("a form with an error").await;

        self.open_the_group().await;
        let script =
            "document.querySelector('form[action$=\"/sync\"] [name=csrf]').value = 'guessed'";
        browser.run(script, json!([])).await;
        browser.press("Refresh from the CMDB").await;
        browser.wait_for("main", "403").await;
        self.fits("a refused form").await;
        let console = browser.console().await;
        assert_eq!(console.len(), 2, "{console:?}");
        assert!(console[0].contains("status of 422") && console[1].contains("status of 403"));
    }

    /// A second browser has no cookie: it is sent to the door, where a token lets it in.
    async fn come_as_a_stranger(&self, driver: &Driver) {
        let browser = driver.browser().await;
        let group = format!("{}/groups/{}", self.demo.url, self.demo.group().await.id);
        browser.open(&group).await;
        assert_eq!(browser.address().await, format!("{}/login", self.demo.url));
        fits(&browser, "the door").await;
        for key in self.demo.token.split("").filter(|key| !key.is_empty()) {
            browser.key(key).await;
        }
        browser.key(ENTER).await;
        browser.wait_for("h1", "Groups").await;
        browser.press("Sign out").await;
        browser.wait_for("h1", "Sign in").await;
        browser.open(&group).await;
        assert_eq!(browser.address().await, format!("{}/login", self.demo.url));
        assert_eq!(browser.console().await, Vec::<String>::new());
        browser.close().await;
    }

    async fn open_the_group(&self) {
        self.browser.open(&self.demo.url).await;
        self.browser.press("web-demo").await;
        self.browser.wait_for("h1", "web-demo").await;
    }

    async fn fill_in(&self, version: &str) {
        self.browser.click("#package").await;
        self.browser.press(version).await;
    }

    /// Clicks the button of an action, and waits for the page that answers.
    async fn ask(&self, action: &str) {
        self.browser.run("window.isLeft = true", json!([])).await;
        self.browser.click(&format!("#do-{action}")).await;
        self.browser.wait_until("!window.isLeft && document.querySelector('#live')").await;
    }

    /// Watches a deployment until it shows a status: live, over one stream, never loaded again.
    async fn watch_until(&self, status: &str) {
        let browser = &self.browser;
        browser.wait_until("document.querySelector('#live')").await;
        browser.run("window.isStill = true", json!([])).await;
        self.wait_for_status(status).await;
        let seen = browser.run("return [window.isStill, window.streamCount]", json!([])).await;
        assert_eq!(seen, json!([true, 1]), "the page was loaded again, or has more streams");
    }

    /// Waits until a deployment shows a status, however the page comes to it.
    async fn wait_for_status(&self, status: &str) {
        let badge = format!("document.querySelector('#head .badge')?.innerText === '{status}'");
        self.browser.wait_until(&badge).await;
    }

    /// Presses Tab until something has the focus, and sees that it shows.
    async fn tab_to(&self, name: &str) {
        let mut passed = Vec::new();
        for _ in 0..60 {
            self.browser.key(TAB).await;
            let focus = self.browser.run(FOCUS, json!([])).await;
            let ring = focus[1].as_f64().unwrap();
            assert!(ring >= 2.0, "the focus cannot be seen: {focus}");
            if focus[0] == name {
                return;
            }
            passed.push(focus);
        }
        panic!("Tab does not lead to {name}: {passed:?}");
    }

    async fn fits(&self, page: &str) {
        fits(&self.browser, page).await;
    }

    async fn picture(&self, name: &str, most: u32) {
        if let Some(folder) = &self.pictures {
            self.browser.picture(&folder.join(format!("{name}.png")), most).await;
        }
    }
}

/// Nothing sticks out of a narrow window.
async fn fits(browser: &Browser, page: &str) {
    browser.size(NARROW, 780, 1).await;
    browser.wait_until(&format!("innerWidth === {NARROW}")).await;
    let sticking_out = browser.run(STICKING_OUT, json!([])).await;
    assert_eq!(sticking_out, json!([]), "{page} is wider than the window");
    browser.size(WIDE, 900, 1).await;
    browser.wait_until(&format!("innerWidth === {WIDE}")).await;
}
