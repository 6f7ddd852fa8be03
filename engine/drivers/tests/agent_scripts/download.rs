//! The stage `download`.

use std::fs;
use std::net::TcpListener;
use std::sync::Arc;

use crate::host::{Host, digest};
use crate::server::{Reply, Server};

#[test]
fn download_resumes_moves_on_to_mirrors_and_checks_the_digest() {
    let host = Host::new();
    let package: Arc<Vec<u8>> =
        Arc::new((0..200_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect());
    let sha = digest(&package);
    let body = Arc::clone(&package);
    let server = Server::start(move |request| match request.path.as_str() {
        "/missing" => Reply::status(404),
        "/wrong" => Reply::body(b"something else"),
        "/huge" if request.method == "HEAD" => {
            Reply::status(200).header("Content-Length", "900000000000000")
        }
        "/no-range" => Reply::body(&body),
        "/cut" => Reply::body(&body).cut_after(1000),
        _ => Reply::body(&body).part(request.range),
    });
    let at = |path: &str| format!("http://{}/{path}", server.address);
    let get = |urls: &str| host.stage("download", "1.0", &sha, &[("CAPSTAN_PACKAGE_URLS", urls)]);
    let place = host.root().join(format!("packages/{sha}.tar.gz"));
    let part = host.root().join(format!("packages/{sha}.part"));

    let mirrors = format!("ftp://x/y {} {} {}", at("missing"), at("wrong"), at("good"));
    assert_eq!(get(&mirrors).code, 0);
    assert!(fs::read(&place).expect("package") == *package);
    assert_eq!(get(&at("good")).code, 10);

    for (left, url) in [
        (&package[..150_000], "good"),
        (b"garbage", "good"),
        (&package[..9], "no-range"),
        (&package[..], "good"),
    ] {
        fs::remove_file(&place).expect("remove");
        fs::write(&part, left).expect("write");
        assert_eq!(get(&at(url)).code, 0, "{url} after {} bytes", left.len());
        assert!(fs::read(&place).expect("package") == *package);
        assert!(!part.exists());
    }
    assert!(server.saw("Range: bytes=150000-"), "it went on where it had stopped");

    fs::write(&place, b"rotten").expect("write");
    assert_eq!(get(&format!("{} {}", at("cut"), at("good"))).code, 0);
    assert!(server.saw("Range: bytes=1000-"), "the next place goes on where the first broke off");
    fs::remove_file(&place).expect("remove");

    get(&at("wrong")).expect(20, "another digest");
    get(&at("huge")).expect(20, "MiB free");
    get(&at("missing")).expect(1, "404");
    get("").expect(20, "no address");
    let refused = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    get(&format!("http://{refused}/x")).expect(1, "cannot be fetched");
    let file = host.root().join("local.tar.gz");
    fs::write(&file, &*package).expect("write");
    assert_eq!(get(&format!("file://{}", file.display())).code, 0);
}
