//! A Service as Kubernetes has it: one address for several processes. A new connection goes to one of those that stand in the list, in turn;
//! connections that are there stay where they are.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Ends when dropped.
pub struct Service {
    address: SocketAddr,
    endpoints: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

impl Service {
    /// With nobody behind it yet.
    ///
    /// # Errors
    /// No address is free.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let endpoints = Arc::new(Mutex::new(Vec::new()));
        let accepting = tokio::spawn({
            let endpoints = Arc::clone(&endpoints);
            async move {
                let mut turn = 0_usize;
                while let Ok((mut client, _)) = listener.accept().await {
                    let list: Vec<String> = lock(&endpoints).clone();
                    if list.is_empty() {
                        continue;
                    }
                    turn = (turn + 1) % list.len();
                    let to = list[turn].clone();
                    tokio::spawn(async move {
                        let _ = client.set_nodelay(true);
                        if let Ok(mut server) = TcpStream::connect(&to).await {
                            let _ = server.set_nodelay(true);
                            let _ = copy_bidirectional(&mut client, &mut server).await;
                        }
                    });
                }
            }
        });
        Ok(Self { address, endpoints, accepting })
    }

    /// Its base address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on this one is behind it, too.
    ///
    /// # Errors
    /// That is no base address.
    pub fn add(&self, base: &str) -> anyhow::Result<()> {
        let address = base.strip_prefix("http://").context("a base address")?;
        lock(&self.endpoints).push(address.to_owned());
        Ok(())
    }

    /// From now on no new connection goes there.
    pub fn remove(&self, base: &str) {
        lock(&self.endpoints).retain(|address| base.strip_prefix("http://") != Some(address));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(endpoints: &Mutex<Vec<String>>) -> MutexGuard<'_, Vec<String>> {
    endpoints.lock().unwrap_or_else(PoisonError::into_inner)
}
