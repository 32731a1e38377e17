//! A proxy between a client and a real HTTP server that fails as networks and object stores do.
//!
//! The fault model: a connection that is closed before or reset after the request; a request that is never answered; an answer
//! that comes a byte at a time, ends half-way, tells a wrong length, or is lost after the server has done what was asked; and
//! the errors that a store answers with when it is broken (500) or busy (503 SlowDown). Where the server has not seen the
//! request, [`ProxyFault::reaches_server`] says so.
//!
//! One request per connection, plain HTTP/1.1; whatever the two sides say in it is passed on byte for byte.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Nobody on one machine is silent for longer.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const DRIP_PAUSE: Duration = Duration::from_millis(500);

/// What the proxy does to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyFault {
    /// Nothing.
    None,
    /// The connection is closed at once.
    Refuse,
    /// The request is read and never answered.
    Hang,
    /// The answer comes a byte at a time, too slowly for any deadline.
    Drip,
    /// The connection is reset when the request comes.
    Reset,
    /// 500, as from a server with a bug.
    Broken,
    /// 503 with the code `SlowDown`.
    SlowDown,
    /// The first half of the answer, then the end of the connection.
    Half,
    /// The answer says that it is longer than it is.
    WrongLength,
    /// The server answers, and the answer is lost.
    AnswerLost,
    /// The condition of a put (`If-None-Match`) is taken out on the way: a store that does not know such conditions.
    Unconditional,
}

impl ProxyFault {
    /// All that a client notices.
    pub const ALL: [Self; 9] = [
        Self::Refuse,
        Self::Hang,
        Self::Drip,
        Self::Reset,
        Self::Broken,
        Self::SlowDown,
        Self::Half,
        Self::WrongLength,
        Self::AnswerLost,
    ];

    /// Whether the server does what it was asked for.
    pub fn reaches_server(self) -> bool {
        matches!(
            self,
            Self::None | Self::Drip | Self::Half | Self::WrongLength | Self::AnswerLost | Self::Unconditional
        )
    }
}

/// A running proxy; closed when dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    /// What is done, and to which requests: those whose head has this text in it.
    fault: Mutex<(ProxyFault, &'static str)>,
    changed: Condvar,
    closed: AtomicBool,
    requests: AtomicU64,
    faulted: AtomicU64,
}

impl Proxy {
    /// Listens on a free port of this machine.
    ///
    /// # Panics
    /// When there is none.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        let shared = Arc::new(Shared {
            server,
            fault: Mutex::new((ProxyFault::None, "")),
            changed: Condvar::new(),
            closed: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            faulted: AtomicU64::new(0),
        });
        let ours = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ours.closed.load(Ordering::Acquire) {
                    return;
                }
                let shared = Arc::clone(&ours);
                // Either side going away ends a connection; the client is who judges it.
                thread::spawn(move || shared.serve(&stream).is_ok());
            }
        });
        Self { shared, address }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Fails every request from now on in this way. Requests that hang are let go, unanswered.
    pub fn set(&self, fault: ProxyFault) {
        self.set_for("", fault);
    }

    /// As [`Proxy::set`], of the requests whose head has `mark` in it; the others pass. The fault must be one that reads its request.
    pub fn set_for(&self, mark: &'static str, fault: ProxyFault) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = (fault, mark);
        self.shared.changed.notify_all();
    }

    /// Requests and connections so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Acquire)
    }

    /// Those of them that met a fault.
    pub fn faulted(&self) -> u64 {
        self.shared.faulted.load(Ordering::Acquire)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.set(ProxyFault::Refuse);
        // The listening thread sees it with its next connection.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn fault(&self) -> (ProxyFault, &'static str) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, client: &TcpStream) -> std::io::Result<()> {
        client.set_read_timeout(Some(SILENCE_MAX))?;
        client.set_write_timeout(Some(SILENCE_MAX))?;
        let (fault, mark) = self.fault();
        self.requests.fetch_add(1, Ordering::AcqRel);
        if fault != ProxyFault::None && mark.is_empty() {
            self.faulted.fetch_add(1, Ordering::AcqRel);
        }
        match fault {
            ProxyFault::Refuse => return Ok(()),
            // To close a socket that holds unread bytes resets its connection (RFC 1122, 4.2.2.13).
            ProxyFault::Reset => return client.peek(&mut [0]).map(|_| ()),
            _ => {}
        }
        let request = read_request(client)?;
        let meant =
            mark.is_empty() || String::from_utf8_lossy(&request[..head_end(&request).unwrap_or(0)]).contains(mark);
        if meant && !mark.is_empty() {
            self.faulted.fetch_add(1, Ordering::AcqRel);
        }
        let fault = if meant { fault } else { ProxyFault::None };
        match fault {
            ProxyFault::Hang => {
                let held = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
                drop(self.changed.wait_while(held, |now| now.0 == ProxyFault::Hang));
                return Ok(());
            }
            ProxyFault::Broken => return error(client, "500 Internal Server Error", "InternalError"),
            ProxyFault::SlowDown => return error(client, "503 Slow Down", "SlowDown"),
            _ => {}
        }
        let request = if fault == ProxyFault::Unconditional { without(&request, "if-none-match") } else { request };
        let answer = self.ask(&request)?;
        match fault {
            ProxyFault::AnswerLost => Ok(()),
            ProxyFault::Half => (&mut &*client).write_all(&answer[..answer.len() / 2]),
            ProxyFault::WrongLength => (&mut &*client).write_all(&longer(&answer)),
            ProxyFault::Drip => {
                for byte in answer {
                    if self.fault().0 != ProxyFault::Drip {
                        return Ok(());
                    }
                    (&mut &*client).write_all(&[byte])?;
                    thread::sleep(DRIP_PAUSE);
                }
                Ok(())
            }
            _ => {
                (&mut &*client).write_all(&answer)?;
                client.shutdown(Shutdown::Write)
            }
        }
    }

    /// The server's whole answer; it is told that no other request follows.
    fn ask(&self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(self.server)?;
        server.set_read_timeout(Some(SILENCE_MAX))?;
        server.set_write_timeout(Some(SILENCE_MAX))?;
        server.write_all(&closing(request))?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(closing(&answer))
    }
}

/// The end of a head, behind its empty line.
fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn lines_of_head(bytes: &[u8], end: usize) -> Vec<String> {
    let head = String::from_utf8_lossy(&bytes[..end - 4]).into_owned();
    head.split("\r\n").map(str::to_owned).collect()
}

fn is_header(line: &str, name: &str) -> bool {
    line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
}

fn read_request(mut client: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut some = [0; 64 << 10];
    loop {
        if let Some(end) = head_end(&request) {
            let lines = lines_of_head(&request, end);
            let length = lines.iter().find(|line| is_header(line, "content-length"));
            let length: usize = length.and_then(|line| line.split_once(':')?.1.trim().parse().ok()).unwrap_or(0);
            if request.len() >= end + length {
                return Ok(request);
            }
        }
        let count = client.read(&mut some)?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        request.extend_from_slice(&some[..count]);
    }
}

/// A message whose head has lost one header.
fn without(message: &[u8], name: &str) -> Vec<u8> {
    let Some(end) = head_end(message) else { return message.to_vec() };
    let lines = lines_of_head(message, end).into_iter().filter(|line| !is_header(line, name));
    [(lines.collect::<Vec<_>>().join("\r\n") + "\r\n\r\n").as_bytes(), &message[end..]].concat()
}

/// A message whose head has one header more, in place of any of that name.
fn with(message: &[u8], name: &str, value: &str) -> Vec<u8> {
    let message = without(message, name);
    let Some(end) = head_end(&message) else { return message };
    [&message[..end - 2], format!("{name}: {value}\r\n\r\n").as_bytes(), &message[end..]].concat()
}

/// A message that says that the connection ends with it.
fn closing(message: &[u8]) -> Vec<u8> {
    with(message, "Connection", "close")
}

/// An answer that says that it is some bytes longer.
fn longer(answer: &[u8]) -> Vec<u8> {
    let body = head_end(answer).map_or(0, |end| answer.len() - end);
    with(answer, "Content-Length", &(body + 7).to_string())
}

fn error(mut client: &TcpStream, status: &str, code: &str) -> std::io::Result<()> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>on purpose</Message></Error>");
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n");
    client.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that counts its requests.
    fn counting() -> (SocketAddr, Arc<AtomicU64>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&count);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                if read_request(&stream).is_ok() {
                    counted.fetch_add(1, Ordering::AcqRel);
                    let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
                }
            }
        });
        (address, count)
    }

    /// What a client gets that gives up after a while; `None` for a connection that breaks or stays silent.
    fn ask(proxy: &Proxy) -> Option<String> {
        let mut client = TcpStream::connect(proxy.address()).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        client.write_all(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").ok()?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).ok()?;
        (!answer.is_empty()).then_some(answer)
    }

    #[test]
    fn each_fault_is_what_it_says() {
        let (server, count) = counting();
        let proxy = Proxy::start(server);
        for fault in ProxyFault::ALL {
            let before = count.load(Ordering::Acquire);
            proxy.set(fault);
            let answer = ask(&proxy);
            let told = answer.as_deref().unwrap_or_default();
            match fault {
                ProxyFault::Broken => assert!(told.starts_with("HTTP/1.1 500"), "{told}"),
                ProxyFault::SlowDown => {
                    assert!(told.starts_with("HTTP/1.1 503") && told.contains("SlowDown"), "{told}")
                }
                ProxyFault::WrongLength => assert!(told.contains("Content-Length: 8\r\n"), "{told}"),
                ProxyFault::Half => {
                    assert!(told.starts_with("HTTP/1.1 ") && head_end(told.as_bytes()).is_none(), "{told}")
                }
                _ => assert_eq!(answer, None, "{fault:?}"),
            }
            proxy.set(ProxyFault::None);
            let reached = count.load(Ordering::Acquire) - before;
            assert_eq!(reached, u64::from(fault.reaches_server()), "{fault:?}");
            let answer = ask(&proxy).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "after {fault:?}: {answer}");
        }
        assert_eq!((proxy.requests(), proxy.faulted()), (18, 9));
    }
}
