//! TLS between gateways and workers, each a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use system_tests::{Api, Gateway, Worker, attempt, create_key, free_address, gateway_config, http};

use crate::questions::{endless, who};

#[tokio::test]
async fn a_worker_is_reached_over_tls_by_who_shows_a_certificate() -> anyhow::Result<()> {
    let site = Site::build()?;
    let worker = site.worker(&site.mutual()).await?;
    let shown = format!("{}{}", site.roots(), site.identity("gateway"));

    let known = site.gateway("known", worker.address(), &shown)?;
    let stranger = site.gateway("stranger", worker.address(), &site.roots())?;

    assert_eq!(reaches(&known).await?, Ok(()));
    let why = reaches(&stranger).await?.unwrap_err();
    assert!(why.contains("CertificateRequired"), "{why}");
    Ok(())
}

#[tokio::test]
async fn a_gateway_answers_through_a_worker_over_mutual_tls() -> anyhow::Result<()> {
    let site = Site::build()?;
    let worker = site.worker(&site.mutual()).await?;
    let shown = format!("{}{}", site.roots(), site.identity("gateway"));
    let listen = free_address()?;
    let config = site.gateway_at(listen, "gateway", worker.address(), &shown)?;
    let key = create_key(&site.path("gateway"), "tls", &[]).await?;

    let mut gateway = Gateway::start(&config, listen).await?;
    gateway.ready().await?;

    let api = Api::new(&gateway.endpoint(), &key.api_key);
    let answer = api.chat(&who()).await?.expect(200)?;
    assert!(answer.text().contains("Tollgate demo model"), "{}", answer.body);
    let told = api.stream(&endless(30)).await?;
    assert!(told.done, "{told:?}");
    gateway.process().stop().await?;
    Ok(())
}

#[tokio::test]
async fn a_gateway_without_a_certificate_is_not_ready_and_says_why() -> anyhow::Result<()> {
    let site = Site::build()?;
    let worker = site.worker(&site.mutual()).await?;
    let listen = free_address()?;
    let config = site.gateway_at(listen, "gateway", worker.address(), &site.roots())?;

    let mut gateway = Gateway::start(&config, listen).await?;

    gateway.process().logged("CertificateRequired", LIMIT).await?;
    let url = format!("{}/readyz", gateway.endpoint());
    let ready = http().build()?.get(url).send().await?;
    assert_eq!(ready.status(), 503);
    Ok(())
}

#[tokio::test]
async fn a_worker_that_others_reach_without_tls_starts_with_a_warning() -> anyhow::Result<()> {
    let site = Site::build()?;
    let token = site.path("worker.token");
    std::fs::write(&token, "a token for these tests")?;
    let at = free_address()?;
    let config = site.path("open.toml");
    let listen = SocketAddr::from(([0, 0, 0, 0], at.port()));
    let text = format!("listen = \"{listen}\"\ntoken_file = \"{}\"\n", token.display());
    std::fs::write(&config, text)?;

    let mut worker = Worker::start(&config, at).await?;

    worker.process().logged("served without TLS", LIMIT).await?;
    Ok(())
}

/// A folder with what two authorities signed: one for workers, one for gateways.
struct Site(tempfile::TempDir);

impl Site {
    fn build() -> anyhow::Result<Self> {
        let site = Self(tempfile::tempdir()?);
        for (authority, who, name) in
            [("workers", "worker", "127.0.0.1"), ("gateways", "gateway", "gateway")]
        {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, authority);
            let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
            let key = KeyPair::generate()?;
            let signed = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &issuer)?;
            std::fs::write(site.path(&format!("{authority}.roots")), issuer.pem())?;
            std::fs::write(site.path(&format!("{who}.crt")), signed.pem())?;
            std::fs::write(site.path(&format!("{who}.key")), key.serialize_pem())?;
        }
        Ok(site)
    }

    /// A worker with these lines in its file.
    async fn worker(&self, lines: &str) -> anyhow::Result<Worker> {
        let (listen, config) = (free_address()?, self.path("worker.toml"));
        std::fs::write(&config, format!("listen = \"{listen}\"\n{lines}"))?;
        Worker::start(&config, listen).await
    }

    /// The configuration of a gateway in front of a worker, with these lines about their link.
    fn gateway(&self, name: &str, worker: SocketAddr, lines: &str) -> anyhow::Result<PathBuf> {
        self.gateway_at(free_address()?, name, worker, lines)
    }

    fn gateway_at(
        &self,
        listen: SocketAddr,
        name: &str,
        worker: SocketAddr,
        lines: &str,
    ) -> anyhow::Result<PathBuf> {
        let data = self.path(name);
        std::fs::create_dir(&data)?;
        // Certificates are all that is shown.
        let text = gateway_config(listen, free_address()?, &data, Path::new("none"));
        let text = text.replace("worker_token_file", "# worker_token_file");
        let text = format!("{text}{lines}[[workers]]\naddress = \"https://{worker}\"\n");
        let config = data.join("gateway.toml");
        std::fs::write(&config, text)?;
        Ok(config)
    }

    /// A worker shows its certificate, and asks gateways for theirs.
    fn mutual(&self) -> String {
        let roots = self.path("gateways.roots");
        format!("[tls]\n{}client_roots = \"{}\"\n", self.identity("worker"), roots.display())
    }

    /// A gateway knows workers.
    fn roots(&self) -> String {
        format!("[worker_tls]\nroots = \"{}\"\n", self.path("workers.roots").display())
    }

    /// The certificate of `who`.
    fn identity(&self, who: &str) -> String {
        let [certificate, key] = ["crt", "key"].map(|kind| self.path(&format!("{who}.{kind}")));
        format!("certificate = \"{}\"\nkey = \"{}\"\n", certificate.display(), key.display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Whether an administrator with this configuration of a gateway reaches its worker; if not, what was logged.
async fn reaches(config: &Path) -> anyhow::Result<Result<(), String>> {
    let config = config.display().to_string();
    let listed = attempt(&["admin", "--config", &config, "workers", "list", "--json"]).await?;
    let log = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert!(listed.status.success(), "{log}");
    let workers: Value = serde_json::from_slice(&listed.stdout)?;
    Ok(if workers[0]["reachable"] == true { Ok(()) } else { Err(log) })
}

const LIMIT: Duration = Duration::from_secs(20);
