//! A line to a service that can be slow, silent or cut.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What becomes of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// It arrives.
    Open,
    /// What a client sends arrives after this time.
    Slow(Duration),
    /// It is lost, and nobody is told: the machine at the other end is gone. Connections that lost
    /// something are never good again.
    Silent,
    /// Connections are refused.
    Refused,
}

#[derive(Debug)]
struct State {
    line: Mutex<Line>,
    /// How many more commits are done whose answers are lost, with their connections.
    lost_commits: AtomicUsize,
    /// How many were lost so far.
    lost: AtomicUsize,
    /// The two ends of each connection, by its number.
    streams: Mutex<BTreeMap<usize, [TcpStream; 2]>>,
}

/// Stands before a service on this machine; clients are given its port instead.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

impl Proxy {
    /// A line to the service on this port.
    pub fn to(service: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(State {
            line: Mutex::new(Line::Open),
            lost_commits: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            streams: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for (number, client) in listener.incoming().flatten().enumerate() {
                shared.join(number, client, service);
            }
        });
        Self { port, state }
    }

    /// The same URL, through this line.
    ///
    /// # Panics
    /// If it names no port of 127.0.0.1.
    pub fn url(&self, url: &str) -> String {
        let (before, after) = url.split_once("127.0.0.1:").expect("a service on this machine");
        let after = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
        format!("{before}127.0.0.1:{}{after}", self.port)
    }

    /// The line is as it should be. Connections that lost something are cut.
    pub fn open(&self) {
        self.carry_on_as(Line::Open);
    }

    fn carry_on_as(&self, line: Line) {
        let was = std::mem::replace(&mut *lock(&self.state.line), line);
        if was == Line::Silent {
            self.cut();
        }
    }

    /// What clients send takes this long. Connections that lost something are cut.
    pub fn slow(&self, by: Duration) {
        self.carry_on_as(Line::Slow(by));
    }

    /// Nothing arrives any more, in either direction, and nobody is told.
    pub fn silence(&self) {
        *lock(&self.state.line) = Line::Silent;
    }

    /// All connections are cut, and no new ones let through.
    pub fn refuse(&self) {
        *lock(&self.state.line) = Line::Refused;
        self.cut();
    }

    /// All connections are cut; new ones are let through.
    pub fn cut(&self) {
        for streams in std::mem::take(&mut *lock(&self.state.streams)).values() {
            streams.iter().for_each(close);
        }
    }

    /// The next commits are done, and their answers are lost with their connections.
    pub fn lose_commits(&self, count: usize) {
        self.state.lost_commits.store(count, Ordering::SeqCst);
    }

    /// How many commits' answers were lost.
    pub fn lost_commits(&self) -> usize {
        self.state.lost.load(Ordering::SeqCst)
    }
}

impl State {
    fn join(self: &Arc<Self>, number: usize, client: TcpStream, service: u16) {
        if *lock(&self.line) == Line::Refused {
            return;
        }
        // In silence a client finds somebody who never answers, as behind a router that drops packets.
        let Ok(server) = TcpStream::connect(("127.0.0.1", service)) else { return };
        let clone = |stream: &TcpStream| stream.try_clone().expect("a handle of a socket");
        lock(&self.streams).insert(number, [clone(&client), clone(&server)]);
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("a socket that sends at once");
        }
        // Set by whoever sees a commit whose answer is to be lost.
        let loses_answer = Arc::new(AtomicUsize::new(0));
        let (state, flag) = (Arc::clone(self), Arc::clone(&loses_answer));
        let (from, to) = (clone(&client), clone(&server));
        thread::spawn(move || {
            state.carry(from, to, true, &flag);
            lock(&state.streams).remove(&number);
        });
        let state = Arc::clone(self);
        thread::spawn(move || {
            state.carry(server, client, false, &loses_answer);
            lock(&state.streams).remove(&number);
        });
    }

    fn carry(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        is_request: bool,
        loses_answer: &AtomicUsize,
    ) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let bytes = &buffer[..count];
            let line = *lock(&self.line);
            match line {
                Line::Silent => continue,
                Line::Slow(by) if is_request => thread::sleep(by),
                Line::Open | Line::Slow(_) | Line::Refused => {}
            }
            if is_request && is_commit(bytes) && self.takes_one() {
                loses_answer.store(1, Ordering::SeqCst);
            }
            if !is_request && loses_answer.load(Ordering::SeqCst) > 0 {
                self.lost.fetch_add(1, Ordering::SeqCst);
                break;
            }
            if to.write_all(bytes).is_err() {
                break;
            }
        }
        close(&from);
        close(&to);
    }

    fn takes_one(&self) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        self.lost_commits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
    }
}

/// Both databases are told so in plain text.
fn is_commit(bytes: &[u8]) -> bool {
    bytes.windows(6).any(|part| part == b"COMMIT")
}

/// One that is closed already is what is wanted.
fn close(stream: &TcpStream) {
    drop(stream.shutdown(Shutdown::Both));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
