//! A certificate by ACME (Let's Encrypt and others) with the crate `instant-acme`. The address of plain HTTP answers the
//! authority's question (HTTP-01) and sends everybody else to https; the files are followed, so that a new certificate
//! is used within a minute and no connection notices. Several processes for one name: let one of them order, and the
//! others follow its files.
//!
//! ```text
//! cat >acme.toml <<END
//! [connection.tls]
//! certificate = "/var/lib/app/cert.pem"
//! key = "/var/lib/app/cert.key"
//! [[server.listen]]
//! address = ":443"
//! [[server.listen]]
//! address = ":80"
//! tls = "redirect"
//! END
//! STELLANE_CONFIG=acme.toml ACME_DIRECTORY=https://acme-staging-v02.api.letsencrypt.org/directory \
//!     cargo run -p stellane-examples --bin serve_acme www.example.org
//! ```

use std::{
    collections::HashMap,
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Router, extract, http::StatusCode, routing::get};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, LetsEncrypt, NewAccount, NewOrder,
    OrderStatus, RetryPolicy,
};
use stellane_core::{BoxError, Runtime, RuntimeConfig};

/// A third of what certificates last; those of a week are renewed after two days.
const RENEW_AFTER: Duration = Duration::from_secs(30 * 86_400);
/// Authorities count what fails: no sooner than that again.
const TRY_AGAIN: Duration = Duration::from_secs(3600);

/// What the authority is told when it asks whether the name is ours, by token.
type Answers = Arc<Mutex<HashMap<String, String>>>;

#[derive(Clone)]
struct Acme {
    name: String,
    directory: String,
    certificate: PathBuf,
    key: PathBuf,
    answers: Answers,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let name = std::env::args()
        .nth(1)
        .ok_or("expected a name, such as www.example.org")?;
    let config = RuntimeConfig::from_env()?;
    let log = stellane_core::logging::init(&config.log)?;
    let tls = &config.connection.tls;
    let acme = Acme {
        name,
        directory: std::env::var("ACME_DIRECTORY")
            .unwrap_or_else(|_| LetsEncrypt::Production.url().to_owned()),
        certificate: tls.certificate.clone().into(),
        key: tls.key.clone().into(),
        answers: Answers::default(),
    };
    // TLS needs some certificate to start with.
    if !acme.certificate.exists() {
        let made = rcgen::generate_simple_self_signed([acme.name.clone()])?;
        acme.write(&made.cert.pem(), &made.signing_key.serialize_pem())?;
    }
    let answers = Arc::clone(&acme.answers);
    let answer = async move |extract::Path(token): extract::Path<String>| {
        let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(&token).cloned().ok_or(StatusCode::NOT_FOUND)
    };
    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/.well-known/acme-challenge/{token}", get(answer));
    let runtime = Runtime::builder()
        .config(config)
        .log_handle(log)
        .background("acme", move |draining| {
            let acme = acme.clone();
            async move {
                let _: Option<()> = draining.run_until_cancelled(acme.keep_fresh()).await;
            }
        })
        .service(app)
        .build()?;
    let bound = runtime.bind_configured().await?;
    println!(
        "serving on {:?}, try: curl -ki https://{}/",
        bound.local_addrs(),
        bound.local_addr()
    );
    bound.serve().await?;
    Ok(())
}

impl Acme {
    async fn keep_fresh(&self) {
        loop {
            let pause = match self.renew_if_due().await {
                Ok(()) => Duration::from_secs(600),
                Err(error) => {
                    tracing::warn!("no new certificate for {}: {error}", self.name);
                    TRY_AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn renew_if_due(&self) -> Result<(), BoxError> {
        // The certificate alone does not say whether it is the one to start with.
        let ordered = self.beside("ordered");
        let last = fs::metadata(&ordered).and_then(|file| file.modified());
        let age = last.ok().and_then(|last| last.elapsed().ok());
        if age.is_some_and(|age| age < RENEW_AFTER) {
            return Ok(());
        }
        let (certificate, key) = self.order().await?;
        self.write(&certificate, &key)?;
        fs::write(ordered, "")?;
        tracing::info!("a new certificate for {}", self.name);
        Ok(())
    }

    /// The certificate and those that sign it, and its key.
    async fn order(&self) -> Result<(String, String), BoxError> {
        let account = self.account().await?;
        let names = [Identifier::Dns(self.name.clone())];
        let mut order = account.new_order(&NewOrder::new(&names)).await?;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let mut challenge = authorization
                .challenge(ChallengeType::Http01)
                .ok_or("no HTTP-01 is offered")?;
            let (token, answer) = (challenge.token.clone(), challenge.key_authorization());
            self.answers().insert(token, answer.as_str().to_owned());
            challenge.set_ready().await?;
        }
        let status = order.poll_ready(&RetryPolicy::default()).await?;
        self.answers().clear();
        if status != OrderStatus::Ready {
            return Err(format!("the order is {status:?}: is port 80 of the name ours?").into());
        }
        let key = order.finalize().await?;
        let certificate = order.poll_certificate(&RetryPolicy::default()).await?;
        Ok((certificate, key))
    }

    /// The same each time: authorities count new ones.
    async fn account(&self) -> Result<Account, BoxError> {
        let file = self.beside("account");
        let builder = match std::env::var("ACME_ROOT") {
            Ok(root) => Account::builder_with_root(root)?,
            Err(_) => Account::builder()?,
        };
        if let Ok(credentials) = fs::read(&file) {
            return Ok(builder
                .from_credentials(serde_json::from_slice(&credentials)?)
                .await?);
        }
        let wanted = NewAccount {
            contact: &[],
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) = builder
            .create(&wanted, self.directory.clone(), None)
            .await?;
        write(&file, &serde_json::to_string(&credentials)?)?;
        Ok(account)
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, certificate: &str, key: &str) -> std::io::Result<()> {
        write(&self.key, key)?;
        write(&self.certificate, certificate)
    }

    fn beside(&self, extension: &str) -> PathBuf {
        self.certificate.with_extension(extension)
    }
}

/// For nobody else to read, and never half.
fn write(file: &Path, content: &str) -> std::io::Result<()> {
    let new = file.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut opened = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    opened.write_all(content.as_bytes())?;
    fs::rename(new, file)
}
