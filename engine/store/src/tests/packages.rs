//! Packages: a version never changes.

use capstan_core::record::{Bad, Location};

use super::records::{application, store};
use crate::{NewPackage, PageRequest, Registered};

fn location(url: &str) -> Location {
    Location { idc: String::new(), url: url.to_owned() }
}

#[tokio::test]
async fn a_version_is_registered_once_and_only_gains() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    let new = NewPackage {
        application: shop.id,
        version: "1.0".to_owned(),
        sha256: "aa".to_owned(),
        size: None,
        locations: vec![location("http://a")],
        stored: false,
    };
    let (first, registered) = store.package_register(new.clone(), None).await.expect("registered");
    assert_eq!(registered, Registered::Created);

    let more = NewPackage {
        size: Some(5),
        locations: vec![location("http://a"), location("http://b")],
        stored: true,
        ..new.clone()
    };
    let (second, registered) = store.package_register(more, None).await.expect("registered");
    assert_eq!(registered, Registered::Same);
    assert_eq!(second.id, first.id);
    assert_eq!((second.size, second.stored, second.locations.len()), (Some(5), true, 2));

    let other = NewPackage { sha256: "bb".to_owned(), ..new };
    let (third, registered) = store.package_register(other, None).await.expect("answered");
    assert_eq!(registered, Registered::OtherDigest);
    assert_eq!(third, second);

    let bad = Bad { by: "ada".to_owned(), reason: "it leaks".to_owned() };
    let marked = store.package_mark(first.id, Some(bad.clone()), None).await.expect("marked");
    assert_eq!(marked.expect("there").bad, Some(bad));
    let found = store.package_by_version(shop.id, "1.0").await.expect("read").expect("there");
    assert!(found.bad.is_some());
    store.package_mark(first.id, None, None).await.expect("marked");
    assert_eq!(store.package(first.id).await.expect("read"), Some(second.clone()));
    assert_eq!(store.packages_by_digest("aa").await.expect("read"), [second]);
}

#[tokio::test]
async fn packages_are_listed_newest_first() {
    let (store, _database) = store().await;
    let shop = application(&store, "shop").await;
    for version in ["1", "2", "3"] {
        super::records::package(&store, &shop, version).await;
    }
    let request = PageRequest { limit: 2, cursor: None };
    let page = store.packages(shop.id, request).await.expect("read");
    let versions: Vec<&str> = page.items.iter().map(|it| it.version.as_str()).collect();
    assert_eq!(versions, ["3", "2"]);
    let request = PageRequest { limit: 2, cursor: page.next_cursor };
    let page = store.packages(shop.id, request).await.expect("read");
    assert_eq!((page.items[0].version.as_str(), page.next_cursor), ("1", None));
}
