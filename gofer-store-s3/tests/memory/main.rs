//! A store whose answers do not end takes no memory away. A binary of its own: the allocator counts
//! for the whole process, so nothing else may run beside.

use futures::{StreamExt, stream};
use gofer_core::object_store::{ListPage, ObjectStore, PutOptions};
use gofer_core::{BackendError, ObjectKey};
use gofer_store_s3::{S3Config, S3ObjectStore};
use peak_alloc::PeakAlloc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const MIB: usize = 1024 * 1024;
/// The longest text that is read, while the buffer for it grows, and both ends of the connection.
const BOUND_BYTES: usize = 32 * MIB;

/// Answers whatever comes with this status and a body without end; a few GiB are as good.
async fn serve(listener: TcpListener, status: &'static str) {
    loop {
        let (socket, _) = listener.accept().await.expect("a connection");
        tokio::spawn(answer(socket, status));
    }
}

async fn answer(mut socket: TcpStream, status: &str) -> std::io::Result<()> {
    // The requests of this test come in one piece, or their rest does not matter.
    let _ = socket.read(&mut [0; 64 * 1024]).await?;
    let head = format!("HTTP/1.1 {status}\r\netag: \"e\"\r\ntransfer-encoding: chunked\r\n\r\n");
    socket.write_all(head.as_bytes()).await?;
    let chunk = [b"10000\r\n".as_slice(), &[b'<'; 64 * 1024], b"\r\n"].concat();
    for _ in 0..4 * 16 * 1024 {
        socket.write_all(&chunk).await?;
    }
    Ok(())
}

#[tokio::test]
async fn answers_that_do_not_end_are_not_gathered() {
    for status in ["200 OK", "403 Forbidden"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(serve(listener, status));
        let settings = S3Config {
            endpoint: Some(format!("http://{address}")),
            bucket: "gofer-test".to_owned(),
            access_key: Some("AK".to_owned()),
            secret_key: Some("secret".into()),
            attempts: 1,
            ..S3Config::default()
        };

        let store = S3ObjectStore::connect(settings).await.expect("connect");
        let key = ObjectKey::new("k").expect("a key");
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();

        let page = ListPage { after: None, limit: 1000 };
        let small = stream::once(async { Ok(vec![0; 1000].into()) }).boxed();
        let large = stream::iter((0..12).map(|_| Ok(vec![0; MIB].into()))).boxed();
        let outcomes: [(&str, Option<BackendError>); 6] = [
            ("check", store.check().await.err()),
            ("list", store.list("", page).await.err()),
            ("get", store.get(&key).await.err()),
            ("delete", store.delete(&key).await.err()),
            ("put", store.put(&key, small, PutOptions::default()).await.err()),
            ("put in parts", store.put(&key, large, PutOptions::default()).await.err()),
        ];

        let peak = MEMORY.peak_usage() - before;
        println!("{status}: {peak} bytes");
        for (what, error) in outcomes {
            let error = error.unwrap_or_else(|| panic!("{status}: {what} went well")).chain();
            println!("{what}: {error}");
            if status.starts_with("200") && what != "get" {
                assert!(error.contains("longer than 8 MiB"), "{what}: {error}");
            }
        }

        assert!(peak < BOUND_BYTES, "{status}: {peak} bytes");
        server.abort();
    }
}
