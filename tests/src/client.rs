//! A Redis client with a time limit on every request, and typed `CASK.*` commands.

use std::time::Duration;

use anyhow::{Context, Result};
use caskade_api::{Event, Nodes, PlanAnswer, PlanPreview, RingView, Status, Task};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisResult};
use serde::de::DeserializeOwned;

const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Longer than a node lets a request wait (5 s), so that the node's own error arrives first.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Commands per pipeline when many keys are written or read.
const BATCH: usize = 500;

/// A connection to one node.
#[derive(Clone)]
pub struct Client {
    connection: MultiplexedConnection,
    addr: String,
}

impl Client {
    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    /// No node answers there within 2 s.
    pub async fn connect(addr: &str) -> Result<Self> {
        Self::try_connect(addr).await.with_context(|| format!("connecting to {addr}"))
    }

    /// Connects as [`Client::connect`] does, and returns the error of the Redis client.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn try_connect(addr: &str) -> RedisResult<Self> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(Some(ANSWER_MAX));
        let client = redis::Client::open(format!("redis://{addr}/"))?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Self { connection, addr: addr.to_owned() })
    }

    /// Returns the connection itself, for commands that have no method here.
    pub fn connection(&mut self) -> &mut MultiplexedConnection {
        &mut self.connection
    }

    /// Sends a command: `client.ask(redis::cmd("GET").arg("k"))`.
    ///
    /// # Errors
    /// The error of the node or of the connection.
    pub async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        command.query_async(&mut self.connection).await
    }

    /// Sends a pipeline.
    ///
    /// # Errors
    /// The error of the node or of the connection.
    pub async fn pipeline<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> Result<T> {
        let answer = pipeline.query_async(&mut self.connection).await;
        answer.with_context(|| format!("a pipeline of {} commands to {}", pipeline.len(), self.addr))
    }

    /// Sends GET.
    ///
    /// # Errors
    /// The error of the node or of the connection.
    pub async fn get(&mut self, key: &str) -> Result<Option<String>> {
        self.ask(redis::cmd("GET").arg(key)).await.with_context(|| format!("GET {key} from {}", self.addr))
    }

    /// Sends SET without options.
    ///
    /// # Errors
    /// The error of the node or of the connection.
    pub async fn set(&mut self, key: &str, value: &str) -> Result<()> {
        self.ask(redis::cmd("SET").arg(key).arg(value))
            .await
            .with_context(|| format!("SET {key} to {}", self.addr))
    }

    /// Reads many keys by pipelines; returns their values in order.
    ///
    /// # Errors
    /// The error of the node or of the connection.
    pub async fn get_all(&mut self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut values = Vec::with_capacity(keys.len());
        for batch in keys.chunks(BATCH) {
            let mut pipeline = Pipeline::with_capacity(batch.len());
            for key in batch {
                pipeline.get(key);
            }
            values.extend(self.pipeline::<Vec<Option<Vec<u8>>>>(&pipeline).await?);
        }
        Ok(values)
    }

    /// Writes many records, by pipelines.
    ///
    /// # Errors
    /// The error of the node or of the connection; an unknown part of the records is written then.
    pub async fn set_all<K: AsRef<[u8]>, V: AsRef<[u8]>>(&mut self, records: &[(K, V)]) -> Result<()> {
        for batch in records.chunks(BATCH) {
            let mut pipeline = Pipeline::with_capacity(batch.len());
            for (key, value) in batch {
                pipeline.set(key.as_ref(), value.as_ref()).ignore();
            }
            self.pipeline::<()>(&pipeline).await?;
        }
        Ok(())
    }

    /// Sends `CASK.STATUS`.
    ///
    /// # Errors
    /// The node cannot be reached, or its answer cannot be parsed.
    pub async fn status(&mut self) -> Result<Status> {
        self.json("CASK.STATUS").await
    }

    /// Sends `CASK.NODES`.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn nodes(&mut self) -> Result<Nodes> {
        self.json("CASK.NODES").await
    }

    /// Sends `CASK.RING`.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn ring(&mut self) -> Result<RingView> {
        self.json("CASK.RING").await
    }

    /// Sends `CASK.TASKS`.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn tasks(&mut self) -> Result<Vec<Task>> {
        self.json("CASK.TASKS").await
    }

    /// Sends `CASK.EVENTS`.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub async fn events(&mut self) -> Result<Vec<Event>> {
        self.json("CASK.EVENTS").await
    }

    /// Sends `CASK.PLAN` with an operation; returns its preview.
    ///
    /// # Errors
    /// As [`Client::status`], or the reason why the operation would be rejected.
    pub async fn preview(&mut self, operation: &[&str]) -> Result<PlanPreview> {
        self.json(&[&["CASK.PLAN"], operation].concat().join(" ")).await
    }

    /// Sends `CASK.PLAN STATUS`, or a command that controls the running plan.
    ///
    /// # Errors
    /// As [`Client::status`], or the reason of the rejection.
    pub async fn plan(&mut self, words: &[&str]) -> Result<PlanAnswer> {
        self.json(&[&["CASK.PLAN"], words].concat().join(" ")).await
    }

    /// Previews an operation and commits exactly that plan; returns the preview.
    ///
    /// # Errors
    /// The reason why the operation was rejected.
    pub async fn plan_and_commit(&mut self, operation: &[&str]) -> Result<PlanPreview> {
        let preview = self.preview(operation).await?;
        let commit = [&["CASK.COMMIT"], operation, &[preview.token.as_str()]].concat().join(" ");
        self.json::<PlanAnswer>(&commit).await?;
        Ok(preview)
    }

    /// Sends a `CASK.*` command, whose words contain no spaces, and parses the JSON of its answer.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self, command: &str) -> Result<T> {
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap_or_default());
        for word in words {
            cmd.arg(word);
        }
        let answer: String = self.ask(&cmd).await.with_context(|| format!("{command} to {}", self.addr))?;
        serde_json::from_str(&answer).with_context(|| format!("{command} of {} answered {answer}", self.addr))
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("addr", &self.addr).finish_non_exhaustive()
    }
}
