//! A real server that is sealed in the middle of everything.

use gofer_core::ErrorKind;
use gofer_core::secret_store::SecretStore;
use gofer_secrets_vault::{VaultConfig, VaultSecretStore};
use serde_json::Value;

use super::server::Server;
use crate::support::{failed, get, open, put};

#[tokio::test]
async fn everything_goes_on_after_it() {
    let Some(mut server) = Server::start("a Vault that is sealed and unsealed").await else {
        return;
    };

    let nobody = VaultConfig { attempts: 1, ..server.real.config() };
    let mut stranger = nobody.clone();
    stranger.auth.token = Some("nobody".into());
    let text = failed(VaultSecretStore::connect(stranger).await, ErrorKind::Unavailable);
    assert!(text.contains("cannot log in by `token`"), "{text}");

    let key = server.initialize().await;
    let config = server.real.approle(&server.real.policy(), "1h", "2h").await;
    let store = open(VaultConfig { attempts: 2, ..config.clone() }).await;
    let patient = open(VaultConfig { attempts: 20, ..config }).await;
    put(&store, "a", "1").await.unwrap();

    for round in 0..2 {
        server.real.administer("PUT", "sys/seal", Value::Null).await;
        let text = failed(get(&store, "a").await, ErrorKind::Unavailable);
        assert!(
            text.contains("is sealed, so it cannot read secret `a`; run `vault operator unseal`"),
            "{text}"
        );
        failed(put(&store, "b", "1").await, ErrorKind::Unavailable);

        let text = failed(store.check().await, ErrorKind::Unavailable);
        assert!(text.ends_with("is sealed; run `vault operator unseal`"), "{text}");

        // Who waits is served as soon as it is unsealed.
        let waiting = tokio::spawn({
            let patient = patient.clone();
            async move { get(&patient, "a").await }
        });

        server.unseal(&key).await;
        let value = waiting.await.unwrap().unwrap();
        assert_eq!(value, if round == 0 { "1" } else { "2" });
        put(&store, "a", "2").await.unwrap();
        assert_eq!(get(&store, "a").await.unwrap(), "2");
        store.check().await.unwrap();
    }
}
