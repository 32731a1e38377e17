//! A package index on a local port, as slow as it is told to be: simple pages (PEP 691), `.metadata` files that it does not
//! advertise, and wheels in ranges. One thread per connection, until dropped.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One release of a package with one wheel.
#[derive(Debug, Clone)]
pub struct Release {
    /// Normal form of the name.
    pub name: String,
    /// Version.
    pub version: String,
    /// The METADATA file.
    pub metadata: String,
    /// The text of its LICENSE file, where it has one.
    pub text: Option<String>,
}

#[derive(Debug)]
struct State {
    files: HashMap<String, (&'static str, Vec<u8>)>,
    latency: Duration,
    requests: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

/// The running index.
#[derive(Debug)]
pub struct Index {
    state: Arc<State>,
    address: SocketAddr,
}

impl Index {
    /// Serves `releases`; every answer takes at least `latency`.
    pub fn start(releases: &[Release], latency: Duration) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let requests = Mutex::default();
        let state = Arc::new(State { files: files(releases), latency, requests, stopped: AtomicBool::new(false) });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { continue };
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Ok(Self { state, address })
    }

    /// Root of the simple pages.
    pub fn url(&self) -> String {
        format!("http://{}/simple/", self.address)
    }

    /// The paths that were asked for since the last call.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn files(releases: &[Release]) -> HashMap<String, (&'static str, Vec<u8>)> {
    let mut pages: HashMap<&str, Vec<String>> = HashMap::new();
    let mut files = HashMap::new();
    for release in releases {
        let stem = format!("{}-{}", release.name.replace('-', "_"), release.version);
        let wheel = format!("{stem}-py3-none-any.whl");
        pages.entry(&release.name).or_default().push(wheel.clone());
        let mut parts = vec![(format!("{stem}.dist-info/METADATA"), release.metadata.as_bytes())];
        if let Some(text) = &release.text {
            parts.push((format!("{stem}.dist-info/licenses/LICENSE"), text.as_bytes()));
        }
        files.insert(format!("/files/{wheel}"), ("application/zip", zip(&parts)));
        files.insert(format!("/files/{wheel}.metadata"), ("text/plain", release.metadata.clone().into_bytes()));
    }
    for (name, wheels) in pages {
        let listed: Vec<serde_json::Value> = wheels
            .iter()
            .map(|wheel| serde_json::json!({"filename": wheel, "url": format!("/files/{wheel}"), "hashes": {}}))
            .collect();
        let page = serde_json::json!({"meta": {"api-version": "1.0"}, "name": name, "files": listed});
        files
            .insert(format!("/simple/{name}/"), ("application/vnd.pypi.simple.v1+json", page.to_string().into_bytes()));
    }
    files
}

/// An archive of stored files.
fn zip(parts: &[(String, &[u8])]) -> Vec<u8> {
    let (mut body, mut list) = (Vec::new(), Vec::new());
    for (name, bytes) in parts {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        let (offset, len) = (body.len() as u32, bytes.len() as u32);
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend(crc.sum().to_le_bytes());
        common.extend(len.to_le_bytes());
        common.extend(len.to_le_bytes());
        common.extend((name.len() as u32).to_le_bytes());
        body.extend([&b"PK\x03\x04"[..], &common, name.as_bytes(), bytes].concat());
        list.extend([&b"PK\x01\x02\x14\x00"[..], &common, &[0; 10], &offset.to_le_bytes(), name.as_bytes()].concat());
    }
    let (count, at) = (parts.len() as u16, body.len() as u32);
    body.extend(&list);
    body.extend(b"PK\x05\x06\0\0\0\0");
    body.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    body.extend([(list.len() as u32).to_le_bytes(), at.to_le_bytes()].concat());
    body.extend([0, 0]);
    body
}

fn serve(stream: TcpStream, state: &State) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some((path, range)) = request(&mut reader) {
        state.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(path.clone());
        std::thread::sleep(state.latency);
        let found = state.files.get(&path);
        let (mut head, part) = match (found, found.and_then(|(_, body)| cut(range.as_deref()?, body.len()))) {
            (None, _) => ("HTTP/1.1 404 Not Found\r\n".to_owned(), &[][..]),
            (Some((kind, body)), None) => (format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n"), &body[..]),
            (Some((kind, body)), Some((from, to))) => {
                let place = format!("content-range: bytes {from}-{}/{}", to - 1, body.len());
                (format!("HTTP/1.1 206 Partial Content\r\ncontent-type: {kind}\r\n{place}\r\n"), &body[from..to])
            }
        };
        let _ = write!(head, "content-length: {}\r\n\r\n", part.len());
        if reader.get_mut().write_all(&[head.as_bytes(), part].concat()).is_err() {
            return;
        }
    }
}

/// The path and range of the next request; `None` at the end of the connection.
fn request(reader: &mut BufReader<TcpStream>) -> Option<(String, Option<String>)> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let path = line.split(' ').nth(1)?.to_owned();
    let mut range = None;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).ok()? == 0 {
            return None;
        }
        if header.trim().is_empty() {
            return Some((path, range));
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("range: bytes=") {
            range = Some(value.trim().to_owned());
        }
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
