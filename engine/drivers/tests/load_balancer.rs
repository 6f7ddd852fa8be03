//! Load balancers: the conformance suite, faults of the fake, and health as `none` sees it.

#[path = "conformance/load_balancer.rs"]
mod conformance;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use capstan_core::ports::{DriverError, LoadBalancer, Sight};
use capstan_drivers::fake::{Act, FakeLoadBalancer, Fault};
use capstan_drivers::none::NoLoadBalancer;
use capstan_drivers::noop::NoopLoadBalancer;
use conformance::{endpoint, observe, sight, suite};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A web server that answers by path: `/200`, `/302/3` (that many redirects to `/200`), `/silent`,
/// `/endless` (a body that does not end), `/cut` (a body that breaks off).
async fn web_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let path: Vec<_> = request.split(' ').nth(1).unwrap_or("/").split('/').skip(1).collect();
    let head = match path[..] {
        ["silent"] => return std::future::pending().await,
        ["endless"] => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n").await?;
            loop {
                stream.write_all(&[b'x'; 1000]).await?;
            }
        }
        ["cut"] => "200 OK\r\nContent-Length: 10".to_owned(),
        ["302", "0"] => "302 Found\r\nLocation: /200\r\nContent-Length: 0".to_owned(),
        ["302", count] => {
            let left = count.parse::<u32>().unwrap_or(1) - 1;
            format!("302 Found\r\nLocation: /302/{left}\r\nContent-Length: 0")
        }
        _ => format!("{} Answer\r\nContent-Length: 0", path[0]),
    };
    stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes()).await
}

#[tokio::test]
async fn fake_conforms() {
    let servers: Vec<_> = (0..3).map(|_| endpoint("")).collect();
    suite(&FakeLoadBalancer::new(), &servers).await;
}

#[tokio::test]
async fn noop_conforms() {
    let servers: Vec<_> = (0..3).map(|_| endpoint("")).collect();
    suite(&NoopLoadBalancer, &servers).await;
}

#[tokio::test]
async fn none_conforms() {
    let address = web_server().await;
    let servers: Vec<_> = (0..100).map(|_| endpoint(&format!("http://{address}/200"))).collect();
    suite(&NoLoadBalancer::new().expect("a client"), &servers[..3]).await;
    let seen = observe(&NoLoadBalancer::new().expect("a client"), &servers).await;
    assert!(seen.iter().all(|seen| seen.sight == Sight::Serving));
}

#[tokio::test]
async fn none_sees_health_alone() {
    let address = web_server().await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        listener.local_addr().expect("it is bound")
    };
    let none = NoLoadBalancer::new().expect("a client");
    for (url, expected) in [
        (format!("http://{address}/200"), Sight::Serving),
        (format!("http://{address}/204"), Sight::Serving),
        (format!("http://{address}/302/2"), Sight::Serving),
        (format!("http://{address}/302/3"), Sight::Dead),
        (format!("http://{address}/endless"), Sight::Serving),
        (format!("http://{address}/cut"), Sight::Dead),
        (format!("http://{address}/404"), Sight::Dead),
        (format!("http://{address}/503"), Sight::Dead),
        (format!("http://{address}/silent"), Sight::Dead),
        (format!("http://{closed}/200"), Sight::Dead),
        (String::new(), Sight::Unknown),
        ("http://".to_owned(), Sight::Unknown),
        ("file:///etc/passwd".to_owned(), Sight::Unknown),
    ] {
        assert_eq!(sight(&none, &endpoint(&url)).await, expected, "{url}");
    }
}

#[tokio::test]
async fn none_answers_in_time_even_if_nobody_else_does() {
    let address = web_server().await;
    let url = format!("http://{address}/silent");
    let servers: Vec<_> = (0..200).map(|_| endpoint(&url)).collect();
    let none = NoLoadBalancer::new().expect("a client");
    let began = Instant::now();
    let seen = observe(&none, &servers).await;
    assert!(began.elapsed() < Duration::from_millis(1950), "{:?}", began.elapsed());
    let count = |sight| seen.iter().filter(|seen| seen.sight == sight).count();
    // Those that had no turn are not called dead.
    assert_eq!((count(Sight::Dead), count(Sight::Unknown)), (64, 136));
}

#[tokio::test]
async fn fake_keeps_the_marks_of_others() {
    let fake = FakeLoadBalancer::new();
    let server = endpoint("");
    fake.take_out(server.server);
    assert_eq!(sight(&fake, &server).await, Sight::TakenOut);
    fake.drain(&server).await.expect("drain answers");
    assert_eq!(sight(&fake, &server).await, Sight::Drained);
    fake.admit(&server).await.expect("admit answers");
    assert_eq!(sight(&fake, &server).await, Sight::TakenOut);
    fake.put_back(server.server);
    fake.kill(server.server);
    assert_eq!(sight(&fake, &server).await, Sight::Dead);
    fake.revive(server.server);
    fake.drain(&server).await.expect("drain answers");
    fake.remove_mark(server.server);
    assert_eq!(sight(&fake, &server).await, Sight::Serving);
}

#[tokio::test]
async fn fake_lets_requests_end_while_a_server_is_out() {
    let fake = FakeLoadBalancer::new();
    let server = endpoint("");
    fake.set_in_flight(server.server, 2);
    let in_flight = async || observe(&fake, std::slice::from_ref(&server)).await[0].in_flight;
    assert_eq!(in_flight().await, Some(2));
    fake.drain(&server).await.expect("drain answers");
    assert_eq!(in_flight().await, Some(1));
    assert_eq!(in_flight().await, Some(0));
    assert_eq!(in_flight().await, Some(0));
}

#[tokio::test]
async fn fake_meets_faults() {
    let fake = FakeLoadBalancer::new();
    let server = endpoint("");
    for (fault, is_done) in [
        (Fault::Refuse, false),
        (Fault::Busy, false),
        (Fault::LoseQuestion, false),
        (Fault::LoseAnswer, true),
    ] {
        fake.fail_next(server.server, Act::Drain, fault.clone());
        let error = fake.drain(&server).await.expect_err("the fault is met");
        let is_as_said = match fault {
            Fault::Refuse => matches!(error, DriverError::Refused(_)),
            Fault::Busy => matches!(error, DriverError::Busy(_)),
            Fault::LoseAnswer | Fault::LoseQuestion => matches!(error, DriverError::Unknown(_)),
            Fault::None | Fault::Delay(_) => false,
        };
        assert!(is_as_said, "{fault:?}: {error:?}");
        assert_eq!(fake.sight(server.server) == Sight::Drained, is_done, "{fault:?}");
    }
    assert_eq!(fake.calls(server.server).drains, 1);
    fake.fail_next(server.server, Act::Observe, Fault::LoseAnswer);
    assert_eq!(sight(&fake, &server).await, Sight::Unknown);
    assert_eq!(sight(&fake, &server).await, Sight::Drained);
    fake.fail_all(Act::Observe, Fault::Busy);
    let servers = [server];
    assert!(matches!(fake.observe(&servers).await, Err(DriverError::Busy(_))));
    fake.fail_all(Act::Observe, Fault::None);
    assert!(fake.observe(&servers).await.is_ok());
}
