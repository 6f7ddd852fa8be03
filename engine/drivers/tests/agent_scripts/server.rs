//! A small HTTP server that answers as a test wants.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub(crate) struct Server {
    pub(crate) address: String,
    seen: Arc<Mutex<String>>,
}

pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: usize,
}

pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    sent: usize,
    hangs: bool,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), sent: usize::MAX, hangs: false }
    }

    pub(crate) fn body(bytes: &[u8]) -> Self {
        Self { body: bytes.to_vec(), ..Self::status(200) }
    }

    pub(crate) fn hang() -> Self {
        Self { hangs: true, ..Self::status(200) }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn cut_after(self, bytes: usize) -> Self {
        Self { sent: bytes, ..self }
    }

    pub(crate) fn part(mut self, from: usize) -> Self {
        if from == 0 {
            return self;
        }
        let total = self.body.len();
        if from >= total {
            return Self::status(416).header("Content-Range", &format!("bytes */{total}"));
        }
        self.body.drain(..from);
        Self { status: 206, ..self }
            .header("Content-Range", &format!("bytes {from}-{}/{total}", total - 1))
    }
}

impl Server {
    pub(crate) fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let seen: Arc<Mutex<String>> = Arc::default();
        let log = Arc::clone(&seen);
        let reply = Arc::new(reply);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (reply, log) = (Arc::clone(&reply), Arc::clone(&log));
                thread::spawn(move || serve(stream, &*reply, &log));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn count(&self, text: &str) -> usize {
        self.seen.lock().expect("lock").matches(text).count()
    }

    pub(crate) fn saw(&self, text: &str) -> bool {
        self.seen.lock().expect("lock").contains(text)
    }
}

/// One request and one answer; a caller that hangs up is no fault of the server's.
fn serve(stream: TcpStream, reply: &dyn Fn(&Request) -> Reply, log: &Mutex<String>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    let mut request = Request { method: words.next()?, path: words.next()?, range: 0 };
    let mut text = format!("{first}\n");
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        if let Some(from) = line.strip_prefix("Range: bytes=") {
            request.range = from.trim_end_matches('-').parse().ok()?;
        }
        text.push_str(&line);
        text.push('\n');
    }
    log.lock().ok()?.push_str(&text);
    let answer = reply(&request);
    if answer.hangs {
        thread::sleep(Duration::from_secs(30));
        return None;
    }
    let mut head = vec![format!("HTTP/1.1 {} Some Reason\r\nConnection: close\r\n", answer.status)];
    head.extend(answer.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")));
    if !answer.headers.iter().any(|(name, _)| *name == "Content-Length") {
        head.push(format!("Content-Length: {}\r\n", answer.body.len()));
    }
    let mut stream = stream;
    stream.write_all(head.concat().as_bytes()).ok()?;
    stream.write_all(b"\r\n").ok()?;
    if request.method != "HEAD" {
        stream.write_all(&answer.body[..answer.body.len().min(answer.sent)]).ok()?;
    }
    Some(())
}
