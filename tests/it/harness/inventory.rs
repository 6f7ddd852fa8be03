//! The demo's inventory, as an operator edits it.

use std::time::Instant;

use serde_json::{Value, json};

use super::{Demo, LOOK_EVERY, PATIENCE};

impl Demo {
    /// Edits the inventory's only group as an operator would.
    fn edit_inventory<T>(&self, edit: impl FnOnce(&mut Value) -> T) -> T {
        let path = self.data().join("inventory.yaml");
        let mut inventory: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let group = &mut inventory["groups"][0];
        group["revision"] = json!(group["revision"].as_i64().unwrap() + 1);
        let edited = edit(group);
        let fresh = path.with_extension("edited");
        std::fs::write(&fresh, serde_json::to_string_pretty(&inventory).unwrap()).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        edited
    }

    /// Changes the record of the group in the inventory; whoever calls waits until it is read.
    pub(crate) fn edit_settle_time(&self, seconds: u32) {
        self.edit_inventory(|group| group["settle_seconds"] = json!(seconds));
    }

    /// From now on new servers get the group's version by themselves.
    pub(crate) fn scale_out_by_itself(&self) {
        self.edit_inventory(|group| group["scale_out"] = json!("automatic"));
    }

    /// How long instances must stay healthy, from now on.
    pub(crate) async fn settle_for(&self, seconds: u32) {
        self.edit_settle_time(seconds);
        let deadline = Instant::now() + PATIENCE;
        while self.group().await.settle_seconds != seconds {
            assert!(Instant::now() < deadline, "the inventory was not read again");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Leaves the first servers in the inventory and takes out the rest.
    pub(crate) fn keep_in_inventory(&self, count: usize) {
        self.edit_inventory(|group| group["servers"].as_array_mut().unwrap().truncate(count));
    }

    /// Takes a server out of the inventory and gives its entry.
    pub(crate) async fn remove_from_inventory(&self, hostname: &str) -> Value {
        let members = self.members().await;
        let gone = self.edit_inventory(|group| {
            let servers = group["servers"].as_array_mut().unwrap();
            let place = servers.iter().position(|row| row["hostname"] == hostname).unwrap();
            servers.remove(place)
        });
        self.wait_for_members(members - 1).await;
        gone
    }

    /// Adds a server to the inventory.
    pub(crate) async fn add_to_inventory(&self, server: Value) {
        let members = self.members().await;
        self.edit_inventory(|group| group["servers"].as_array_mut().unwrap().push(server));
        self.wait_for_members(members + 1).await;
    }

    async fn members(&self) -> usize {
        self.servers().await.iter().filter(|row| !row.retired).count()
    }

    async fn wait_for_members(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.members().await != count {
            assert!(Instant::now() < deadline, "the inventory was not read again");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
