//! What a person does to a release and a fleet by hand: putting a server back, batches started one by
//! one, brake and resume, revoke, finish, and a refresh from the CMDB that needs a person's word.

use super::{ENTER, Story};

impl Story {
    /// The server that was pulled out runs the group's version by now, so it goes into service.
    pub(super) async fn put_back(&self, hostname: &str) {
        let browser = &self.browser;
        self.open_the_group().await;
        browser.press(&format!("Put back {hostname}")).await;
        browser.wait_until("!document.querySelector('#servers .pulled')").await;
        self.demo.wait_for_service(hostname).await;
        self.open_the_group().await;
        let row = browser.run(ROW, serde_json::json!([hostname])).await;
        assert!(row.as_str().unwrap().contains("\nin\n"), "{row}");
        assert!(row.as_str().unwrap().contains("Pull out…"), "{row}");
    }

    /// In manual mode each batch waits for a click, and under a brake no click starts one.
    pub(super) async fn start_batches_by_hand_and_revoke(&self) {
        let browser = &self.browser;
        self.fill_in("1.1.0").await;
        browser.click("#mode").await;
        browser.press("manual: each batch waits for a click").await;
        browser.press("Preview").await;
        browser.press("Create and start").await;
        self.ask("bake").await;
        self.ask("rollout").await;
        browser.wait_for("#batch-2 .badge", "SUCCESS").await;
        browser.wait_for("#batch-3", "waits for a click").await;
        browser.wait_for("#do-rollout", "Roll out batch 3").await;
        self.fits("a deployment in manual mode").await;

        self.ask("brake").await;
        self.watch_until("ROLLOUT_BRAKED").await;
        browser.wait_for("#holds", "Braked by admin").await;
        browser.wait_for("#batch-3", "held by the brake").await;
        browser.wait_for(".refused", "Roll out").await;
        browser.wait_until("!document.querySelector('#do-rollout')").await;
        self.ask("resume").await;
        self.watch_until("ROLLING_OUT").await;
        browser.wait_until("document.querySelector('#holds').hidden").await;
        self.ask("rollout").await;
        browser.wait_for("#batch-3 .badge", "SUCCESS").await;
        browser.wait_for("#do-rollout", "Roll out batch 4").await;

        browser.press("Revoke…").await;
        self.ask("revoke").await;
        self.wait_for_status("REVOKED").await;
        browser.wait_for("#course", "3 revoked").await;
        self.fits("a revoked deployment").await;
    }

    /// A bastion that fails leaves a choice; here it is to end the release, by keyboard.
    pub(super) async fn finish_a_failed_release(&self) {
        let browser = &self.browser;
        let fault = self.demo.root(1).join("fault");
        std::fs::write(&fault, "").unwrap();
        self.open_the_group().await;
        self.fill_in("1.0.0").await;
        browser.press("Preview").await;
        browser.press("Create and start").await;
        self.watch_until("SMOKE_FAILURE").await;
        std::fs::remove_file(&fault).unwrap();
        self.tab_to("Finish…").await;
        browser.key(ENTER).await;
        self.tab_to("do-finish").await;
        browser.key(ENTER).await;
        self.wait_for_status("FAILURE").await;
        browser.wait_for("#next .refused", "it has ended").await;
    }

    /// The CMDB loses most of a group at once: somebody has to say that this is meant.
    pub(super) async fn confirm_a_refresh_that_is_held(&self) {
        let browser = &self.browser;
        self.demo.keep_in_inventory(3);
        self.open_the_group().await;
        browser.press("Refresh from the CMDB").await;
        browser.wait_for(".banner.warning", "A refresh from the CMDB is held").await;
        self.fits("a refresh that is held").await;
        browser.press("This is right: apply the refresh").await;
        browser.wait_until("!document.querySelector('.banner')").await;
        let retired = "document.querySelector('#servers').innerText.split('retired').length === 6";
        browser.wait_until(retired).await;
        self.fits("a group with servers that are gone").await;
    }
}

/// What the row of a server shows.
const ROW: &str = "
    return [...document.querySelectorAll('#servers tbody tr')]
        .find((row) => row.querySelector('.host').innerText === arguments[0]).innerText;";
