//! A keep-alive HTTP/1.1 client that costs next to nothing: one socket, one vectored write, one small read.
//!
//! It knows only what the servers measured here answer: a length or chunks, no redirects, no TLS.

use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

/// Past this an answer is not one that a benchmark asked for.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// One connection, used for one request after the other.
pub struct Connection {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Seconds of `Retry-After`, if sent.
    pub retry_after_seconds: Option<u64>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Connection {
    /// Connects; an answer that takes longer than `timeout` is an error.
    pub fn open(address: SocketAddr, timeout: Duration) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream, host: address.to_string(), buffer: Vec::with_capacity(4096) })
    }

    /// Sends a request and reads its answer.
    pub fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> anyhow::Result<Answer> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n{headers}\r\n",
            self.host,
            body.len()
        );
        self.write_both(head.as_bytes(), body).context("cannot send")?;
        self.read_answer().context("cannot read the answer")
    }

    /// `GET`.
    pub fn get(&mut self, path: &str) -> anyhow::Result<Answer> {
        self.send("GET", path, "", b"")
    }

    /// `POST`.
    pub fn post(&mut self, path: &str, body: &[u8]) -> anyhow::Result<Answer> {
        self.send("POST", path, "", body)
    }

    fn write_both(&mut self, head: &[u8], body: &[u8]) -> std::io::Result<()> {
        let mut sent = self.stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?;
        while sent < head.len() {
            sent += self.stream.write(&head[sent..])?;
        }
        self.stream.write_all(&body[sent - head.len()..])
    }

    fn read_answer(&mut self) -> anyhow::Result<Answer> {
        self.buffer.clear();
        let head_end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).into_owned();
        self.buffer.drain(..head_end);
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status in the answer")?;
        let header = |name: &str| {
            head.lines().skip(1).find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let retry_after_seconds = header("retry-after").and_then(|value| value.parse().ok());
        let body = if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            self.read_chunks()?
        } else {
            let length = header("content-length").map_or(Ok(0), |value| value.parse())?;
            self.take(length)?
        };
        Ok(Answer { status, retry_after_seconds, body })
    }

    fn read_chunks(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = find(&self.buffer, b"\r\n") {
                    break end;
                }
                self.fill()?;
            };
            let line = self.take(end + 2)?;
            let length = usize::from_str_radix(std::str::from_utf8(&line[..end])?.trim(), 16)?;
            let chunk = self.take(length + 2)?;
            if length == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }

    fn take(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        let mut some = [0; 16 << 10];
        let count = self.stream.read(&mut some)?;
        if count == 0 {
            bail!("the server closed the connection");
        }
        if self.buffer.len() + count > ANSWER_BYTES_MAX {
            bail!("the answer is longer than {ANSWER_BYTES_MAX} bytes");
        }
        self.buffer.extend_from_slice(&some[..count]);
        Ok(())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// A query parameter's value, everything but unreserved characters escaped.
pub fn escape(value: &str) -> String {
    let mut out = String::new();
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn answered(answer: &'static str) -> anyhow::Result<Answer> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut some = [0; 1024];
            let _ = stream.read(&mut some).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let result = Connection::open(address, Duration::from_secs(10))?.post("/x", b"hello");
        server.join().unwrap();
        result
    }

    #[test]
    fn reads_lengths_chunks_and_empty_answers() {
        let plain = answered("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde").unwrap();
        assert_eq!((plain.status, plain.text().as_str()), (200, "abcde"));
        let chunked =
            answered("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").unwrap();
        assert_eq!(chunked.text(), "abcde");
        let refused = answered("HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert_eq!((refused.status, refused.retry_after_seconds), (503, Some(7)));
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        assert!(answered("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc").is_err());
    }
}
