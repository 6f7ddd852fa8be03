//! From the text of the file to its entries.

use capstan_core::ports::CmdbGroup;

use super::tree::{Node, parse};
use crate::cmdb_records::{
    Entry, Fault, Names, Older, Place, Placed, Read, Records, Source, alone,
};

/// The records after reading `text`.
pub(super) fn after(before: &Records, file: &str, text: &str, names: &Names) -> Records {
    let source = Source { name: file, older: Older::Told };
    match read(text, names) {
        Ok(read) => before.merged(&source, read),
        Err(fault) => {
            before.with_broken_source(source.sentence(None, &fault, "nothing of it is used"))
        }
    }
}

fn read(text: &str, names: &Names) -> Result<Read, Fault> {
    let file = parse(text)?;
    let shape = "the file must be a map with the one entry `groups`, a list";
    let fault = |line, reason: String| Fault::new(Place::Line(line), reason);
    let top = file.entries().ok_or_else(|| fault(file.line, shape.to_owned()))?;
    for (line, name, _) in top {
        if name != "groups" {
            return Err(fault(line, format!("unknown field `{name}`; {shape}")));
        }
    }
    let groups = file.get("groups").ok_or_else(|| fault(file.line, shape.to_owned()))?;
    let items = groups.items().ok_or_else(|| fault(groups.line, shape.to_owned()))?;
    let mut read = Read::default();
    for item in items {
        read.add(entry(item, text, names));
    }
    Ok(read)
}

fn entry(item: &Node, text: &str, names: &Names) -> Entry {
    let place = Place::Line(item.line);
    let id = item.get("id").and_then(|id| id.read::<String>(text).ok());
    let id = id.filter(|id| !id.is_empty());
    let record = item.read::<CmdbGroup>(text).map_err(|fault| vec![fault]).and_then(|group| {
        let servers = item.get("servers").and_then(Node::items).unwrap_or_default();
        let server_places = servers.iter().map(|server| Place::Line(server.line)).collect();
        let placed = Placed { group, place, server_places };
        let faults = alone(&placed, names);
        if faults.is_empty() { Ok(placed) } else { Err(faults) }
    });
    Entry { place, id, record }
}
