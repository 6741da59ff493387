//! TLS at the gateway's own listener, and what is refused without it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use system_tests::{Fleet, Gateway, attempt, free_address, gateway_config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::questions::who;
use crate::raw::chat;

#[tokio::test]
async fn tls_speaks_http2_and_http1_as_the_client_chooses() -> anyhow::Result<()> {
    let fleet = Fleet::start(1, system_tests::Wishes::default()).await?;
    let folder = tempfile::tempdir()?;
    let certificate = certify(folder.path())?;
    let listen = free_address()?;
    let config = secured(&fleet, folder.path(), listen).await?;
    let key = system_tests::create_key(folder.path(), "tls", &[]).await?;
    let mut gateway = Gateway::start(&config, listen).await?;
    gateway.process().logged("gateway ready", LIMIT).await?;

    let stream = connect(&certificate, listen, b"h2").await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let answer = over_http2(stream, &key.api_key).await?;
    assert!(answer.contains("Tollgate demo model"), "{answer}");

    let mut stream = connect(&certificate, listen, b"http/1.1").await?;
    assert_ne!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let request = chat(&key.api_key, &who().to_string(), "connection: close\r\n");
    stream.write_all(&request).await?;
    let mut answer = String::new();
    // A peer that ends without a word of TLS has ended all the same.
    let _ = tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let mut plain = TcpStream::connect(listen).await?;
    plain.write_all(&request).await?;
    let mut refused = Vec::new();
    let _ = tokio::time::timeout(LIMIT, plain.read_to_end(&mut refused)).await?;
    assert!(!refused.starts_with(b"HTTP/1.1 200"), "plain HTTP was served on a TLS port");
    gateway.process().stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_new_certificate_is_shown_after_a_reload_and_one_that_cannot_be_used_is_not()
-> anyhow::Result<()> {
    let fleet = Fleet::start(1, system_tests::Wishes::default()).await?;
    let folder = tempfile::tempdir()?;
    let old = certify(folder.path())?;
    let listen = free_address()?;
    let config = secured(&fleet, folder.path(), listen).await?;
    let key = system_tests::create_key(folder.path(), "tls", &[]).await?;
    let mut gateway = Gateway::start(&config, listen).await?;
    gateway.process().logged("gateway ready", LIMIT).await?;
    let before = connect(&old, listen, b"h2").await?;

    let new = certify(folder.path())?;
    gateway.process().signal("HUP").await?;
    gateway.process().logged("configuration reloaded", LIMIT).await?;

    assert!(connect(&old, listen, b"h2").await.is_err(), "the old one is still shown");
    let after = connect(&new, listen, b"h2").await?;
    for open in [before, after] {
        assert!(over_http2(open, &key.api_key).await?.contains("Tollgate demo model"));
    }

    // Not the key of that certificate.
    let other = tempfile::tempdir()?;
    certify(other.path())?;
    std::fs::copy(other.path().join("key.pem"), folder.path().join("key.pem"))?;
    gateway.process().signal("HUP").await?;
    gateway.process().logged("configuration not reloaded", LIMIT).await?;
    gateway.process().logged("tls: use ", LIMIT).await?;
    connect(&new, listen, b"h2").await?;
    gateway.process().stop().await?;
    Ok(())
}

#[tokio::test]
async fn other_machines_are_not_served_without_tls() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().display().to_string();
    let listen =
        ["serve", "--data", &data, "--listen", "0.0.0.0:0", "--admin-listen", "127.0.0.1:0"];
    let output = attempt(&listen).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("error: listen:") && said.contains("TLS"), "{said}");
    Ok(())
}

/// Writes a certificate for this machine and its key to a folder.
fn certify(folder: &Path) -> anyhow::Result<CertificateDer<'static>> {
    let names = vec!["localhost".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names)?;
    std::fs::write(folder.join("cert.pem"), cert.pem())?;
    std::fs::write(folder.join("key.pem"), signing_key.serialize_pem())?;
    Ok(cert.der().clone())
}

/// The configuration of a second gateway, with TLS, in front of the fleet's worker.
async fn secured(
    fleet: &Fleet,
    folder: &Path,
    listen: SocketAddr,
) -> anyhow::Result<std::path::PathBuf> {
    let token = fleet.data().join("worker.token");
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let text = gateway_config(listen, free_address()?, folder, &token);
    let (certificate, key) = (certificate.display(), key.display());
    let worker = fleet.workers[0].address();
    let text = format!(
        "{text}[tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n[[workers]]\naddress = \"http://{worker}\"\n"
    );
    let config = folder.join("gateway.toml");
    tokio::fs::write(&config, text).await?;
    Ok(config)
}

async fn connect(
    trusted: &CertificateDer<'static>,
    address: SocketAddr,
    protocol: &[u8],
) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone())?;
    let provider = Arc::new(crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost")?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("agree on TLS")
}

async fn over_http2(stream: TlsStream<TcpStream>, key: &str) -> anyhow::Result<String> {
    let (client, connection) = h2::client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::post("https://localhost/v1/chat/completions")
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json")
        .body(())?;
    let (response, mut body) = client.ready().await?.send_request(request, false)?;
    body.send_data(Bytes::from(who().to_string()), true)?;
    let response = tokio::time::timeout(LIMIT, response).await??;
    assert_eq!(response.status(), 200);
    let mut stream = response.into_body();
    let mut answer = Vec::new();
    while let Some(part) = stream.data().await {
        let part = part?;
        stream.flow_control().release_capacity(part.len())?;
        answer.extend_from_slice(&part);
    }
    connection.abort();
    Ok(String::from_utf8(answer)?)
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);
