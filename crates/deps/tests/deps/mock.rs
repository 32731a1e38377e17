//! A package index on a local port, with the faults that real ones have. One thread per connection, until dropped.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a path answers.
#[derive(Clone)]
pub(crate) enum Answer {
    /// 200 with a content type; ranges are served.
    File(&'static str, Vec<u8>),
    /// 200 for the whole file, also where a range was asked for.
    NoRanges(Vec<u8>),
    /// A status and headers.
    Status(u16, &'static str),
    /// The first answers in order, then the last one for ever.
    Then(Vec<Answer>),
    /// Promises more bytes than it sends.
    Truncated(Vec<u8>),
    /// Sends nothing for this long.
    Slow(Duration),
    /// Sends zeros without end, in chunks.
    Endless,
}

#[derive(Default)]
struct State {
    answers: Mutex<HashMap<String, Answer>>,
    requests: Mutex<Vec<String>>,
    counts: Mutex<HashMap<String, usize>>,
    stopped: AtomicBool,
    connections: AtomicUsize,
}

pub(crate) struct Mock {
    state: Arc<State>,
    address: std::net::SocketAddr,
}

impl Mock {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { continue };
                shared.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { state, address }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://user:secret@{}{path}", self.address)
    }

    pub(crate) fn on(&self, path: &str, answer: Answer) -> &Self {
        self.state.answers.lock().unwrap().insert(path.to_owned(), answer);
        self
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, state: &State) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
        let mut range = None;
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) == 0 {
                return;
            }
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("range: bytes=") {
                range = Some(value.trim().to_owned());
            }
        }
        state.requests.lock().unwrap().push(path.clone());
        let count = {
            let mut counts = state.counts.lock().unwrap();
            let count = counts.entry(path.clone()).or_default();
            *count += 1;
            *count
        };
        let mut answer = state.answers.lock().unwrap().get(&path).cloned();
        if let Some(Answer::Then(list)) = &answer {
            answer = list.get(count - 1).or(list.last()).cloned();
        }
        if !send(reader.get_mut(), answer, range.as_deref()) {
            return;
        }
    }
}

/// Whether the connection goes on.
fn send(stream: &mut TcpStream, answer: Option<Answer>, range: Option<&str>) -> bool {
    let head =
        |status: u16, more: &str, len: usize| format!("HTTP/1.1 {status} X\r\n{more}content-length: {len}\r\n\r\n");
    match answer {
        None => stream.write_all(head(404, "", 0).as_bytes()).is_ok(),
        Some(Answer::Status(status, headers)) => stream.write_all(head(status, headers, 0).as_bytes()).is_ok(),
        Some(Answer::NoRanges(body)) => {
            stream.write_all(head(200, "", body.len()).as_bytes()).is_ok() && stream.write_all(&body).is_ok()
        }
        Some(Answer::File(kind, body)) => {
            let kind = format!("content-type: {kind}\r\n");
            let (status, more, part) = match range.and_then(|range| cut(range, body.len())) {
                Some((from, to)) => {
                    (206, format!("{kind}content-range: bytes {from}-{}/{}\r\n", to - 1, body.len()), &body[from..to])
                }
                None => (200, kind, &body[..]),
            };
            stream.write_all(head(status, &more, part.len()).as_bytes()).is_ok() && stream.write_all(part).is_ok()
        }
        Some(Answer::Truncated(body)) => {
            let _ = stream.write_all(head(200, "", body.len() + 1000).as_bytes());
            let _ = stream.write_all(&body);
            false
        }
        Some(Answer::Slow(wait)) => {
            std::thread::sleep(wait);
            false
        }
        Some(Answer::Endless) => {
            let _ = stream.write_all(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n");
            let chunk = [b"10000\r\n".to_vec(), vec![b'0'; 0x10000], b"\r\n".to_vec()].concat();
            while stream.write_all(&chunk).is_ok() {}
            false
        }
        Some(Answer::Then(_)) => unreachable!("resolved before"),
    }
}

fn cut(range: &str, len: usize) -> Option<(usize, usize)> {
    let (from, to) = range.split_once('-')?;
    if from.is_empty() {
        let count: usize = to.parse().ok()?;
        return Some((len.saturating_sub(count), len));
    }
    let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
    (from <= to && to < len).then_some((from, to + 1))
}
