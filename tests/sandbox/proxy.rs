//! A proxy on loopback that speaks SOCKS 4, 4a and 5, and CONNECT. Whatever host is requested, it connects to the
//! stand-in.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// User and password.
type Login = (&'static str, &'static str);

/// A running proxy. It ends with the process.
pub struct Proxy {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts one that leads to this address, for those with this login if there is one.
    pub fn start(target: SocketAddr, login: Option<Login>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let for_connections = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&for_connections);
                // A broken connection is up to the client.
                thread::spawn(move || serve(stream, target, login, &seen));
            }
        });
        Ok(Proxy { address, seen })
    }

    /// Host and port.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What it was asked for so far: how, and for which host and port.
    pub fn seen(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}

fn serve(
    stream: TcpStream,
    target: SocketAddr,
    login: Option<Login>,
    seen: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (asked, agreed): (_, &[u8]) = match reader.fill_buf()?.first() {
        Some(4) => (socks4(&mut reader)?, &[0, 90, 0, 0, 0, 0, 0, 0]),
        Some(5) => match socks5(&mut reader, login)? {
            Some(asked) => (asked, &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
            None => return Ok(()),
        },
        _ => match connect(&mut reader, login)? {
            Some(asked) => (asked, b"HTTP/1.1 200 Connected\r\n\r\n"),
            None => return Ok(()),
        },
    };
    let mut all = seen.lock().unwrap_or_else(PoisonError::into_inner);
    all.push(asked);
    drop(all);
    let mut stream = stream;
    let onwards = TcpStream::connect(target)?;
    stream.write_all(agreed)?;
    let (mut from, mut to) = (onwards.try_clone()?, stream.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let mut to = &onwards;
    io::copy(&mut reader, &mut to)?;
    onwards.shutdown(Shutdown::Write)
}

/// SOCKS 4, and 4a where a name follows.
fn socks4(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut head = [0; 8];
    reader.read_exact(&mut head)?;
    let port = u16::from_be_bytes([head[2], head[3]]);
    let mut text = Vec::new();
    reader.read_until(0, &mut text)?;
    if head[4..7] == [0; 3] && head[7] != 0 {
        text.clear();
        reader.read_until(0, &mut text)?;
        let name = String::from_utf8_lossy(&text[..text.len() - 1]);
        return Ok(format!("socks4a {name}:{port}"));
    }
    let address = Ipv4Addr::new(head[4], head[5], head[6], head[7]);
    Ok(format!("socks4 {address}:{port}"))
}

/// SOCKS 5 (RFC 1928, RFC 1929); none if there is no way.
fn socks5(reader: &mut BufReader<TcpStream>, login: Option<Login>) -> io::Result<Option<String>> {
    reader.read_exact(&mut [0])?;
    let methods = counted(reader)?;
    let method = if login.is_some() { 2 } else { 0 };
    if !methods.contains(&method) {
        reader.get_mut().write_all(&[5, 0xff])?;
        return Ok(None);
    }
    reader.get_mut().write_all(&[5, method])?;
    if let Some((user, password)) = login {
        reader.read_exact(&mut [0])?;
        let given = (counted(reader)?, counted(reader)?);
        let is_right = given == (user.into(), password.into());
        reader.get_mut().write_all(&[1, u8::from(!is_right)])?;
        if !is_right {
            return Ok(None);
        }
    }
    let mut head = [0; 4];
    reader.read_exact(&mut head)?;
    let host = match head[3] {
        1 => Ipv4Addr::from(fixed::<4>(reader)?).to_string(),
        3 => String::from_utf8_lossy(&counted(reader)?).into_owned(),
        _ => Ipv6Addr::from(fixed::<16>(reader)?).to_string(),
    };
    let port = u16::from_be_bytes(fixed(reader)?);
    Ok(Some(format!("socks5 {host}:{port}")))
}

/// CONNECT; none without the login.
fn connect(reader: &mut BufReader<TcpStream>, login: Option<Login>) -> io::Result<Option<String>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
    if let Some((user, password)) = login {
        let right = BASE64_STANDARD.encode(format!("{user}:{password}"));
        let line = format!("proxy-authorization: basic {right}\r\n").to_ascii_lowercase();
        if !head.to_ascii_lowercase().contains(&line) {
            let refusal = "HTTP/1.1 407 Login\r\nProxy-Authenticate: Basic\r\n\r\n";
            reader.get_mut().write_all(refusal.as_bytes())?;
            return Ok(None);
        }
    }
    let asked = head.split(' ').nth(1).unwrap_or_default();
    Ok(Some(format!("connect {asked}")))
}

/// As many bytes as the next one says.
fn counted(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let [count] = fixed(reader)?;
    let mut bytes = vec![0; count.into()];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn fixed<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}
