//! One HTTP/1.1 connection, on a thread that waits: nothing of the client's own between a request and
//! the kernel, so that differences of microseconds are the server's.
//!
//! Knows as much of HTTP as Tollgate's whole answers need: a status, and a body with an announced length.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A connection that is kept, and opened again when it was lost.
#[derive(Debug)]
pub struct Wire {
    server: SocketAddr,
    stream: Option<TcpStream>,
    received: Vec<u8>,
}

/// The bytes of a request.
#[derive(Clone, Debug)]
pub struct Message(Vec<u8>);

/// The beginning of an answer, once all of it is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Bytes up to the body.
    length: usize,
    body_length: usize,
}

impl Message {
    /// Asks for a path.
    pub fn get(path: &str) -> Self {
        Self(format!("GET {path} HTTP/1.1\r\nhost: tollgate\r\n\r\n").into_bytes())
    }

    /// Sends `body` to a path in the name of a key.
    pub fn post(path: &str, key: &str, body: &Value) -> Self {
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: tollgate\r\nauthorization: Bearer {key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Self([head, body].concat().into_bytes())
    }
}

impl Wire {
    /// A connection to `server`, opened by the first request.
    pub const fn to(server: SocketAddr) -> Self {
        Self { server, stream: None, received: Vec::new() }
    }

    /// Sends a request and reads the whole answer; its status and its body.
    pub fn ask(&mut self, message: &Message) -> io::Result<(u16, &[u8])> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.server)?,
        };
        // What breaks off is not used again: the rest of its answer would pass for the next one.
        let (stream, head) = exchange(stream, message, &mut self.received)?;
        self.stream = Some(stream);
        Ok((head.status, &self.received[head.length..head.length + head.body_length]))
    }
}

fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

fn exchange(
    mut stream: TcpStream,
    Message(bytes): &Message,
    received: &mut Vec<u8>,
) -> io::Result<(TcpStream, Head)> {
    stream.write_all(bytes)?;
    received.clear();
    let mut piece = [0; PIECE_BYTES];
    loop {
        if let Some(head) = Head::parse(received)?
            && received.len() >= head.length + head.body_length
        {
            return Ok((stream, head));
        }
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&piece[..count]);
    }
}

impl Head {
    /// `None` while it is not complete.
    fn parse(received: &[u8]) -> io::Result<Option<Self>> {
        let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = str::from_utf8(&received[..end]).map_err(io::Error::other)?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let body_length = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        match (status, body_length) {
            (Some(status), Some(body_length)) => {
                Ok(Some(Self { status, length: end + 4, body_length }))
            }
            _ => Err(io::Error::new(ErrorKind::InvalidData, "an answer without status or length")),
        }
    }
}

/// Longer than any answer here takes.
const LIMIT: Duration = Duration::from_secs(30);
const PIECE_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_complete() {
        let answer = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 3\r\nx: y\r\n\r\nabc";

        let complete = Head::parse(answer).unwrap();
        let cut = Head::parse(&answer[..40]).unwrap();

        let length = answer.len() - 3;
        assert_eq!(complete, Some(Head { status: 429, length, body_length: 3 }));
        assert_eq!(cut, None);
    }

    #[test]
    fn an_answer_without_a_length_is_an_error() {
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn one_connection_serves_many_requests_and_a_lost_one_is_opened_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut wire = Wire::to(listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            for answers in [2, 1] {
                let (mut stream, _) = listener.accept().unwrap();
                for _ in 0..answers {
                    stream.read_exact(&mut [0; 34]).unwrap();
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").unwrap();
                    stream.write_all(b"ok").unwrap();
                }
            }
        });

        let message = Message::get("/");
        let asked: Vec<bool> = (0..4).map(|_| wire.ask(&message).is_ok()).collect();

        server.join().unwrap();
        assert_eq!(asked, [true, true, false, true]);
    }
}
