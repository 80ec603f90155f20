//! A server from its start to its end: listens, begins if it has not, runs the node, and stops in order.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use raft_core::message::Envelope;
use raft_core::port::{StateMachine, Stored};
use raft_core::status::Status;
use raft_core::types::{ClusterId, Identity, Member, NodeId};
use raft_store_sqlite::{Answer, Contract, DataDir, Parts};
use raft_transport_grpc::{GrpcTransport, Options as TransportOptions, Recipient, identify};
use raftkv_proto::raft::v1::IdentifyRequest;
use raftkv_proto::raft::v1::raft_service_server::RaftServiceServer;
use raftkv_proto::raftkv::v1::cluster_server::ClusterServer;
use raftkv_proto::raftkv::v1::kv_server::KvServer;
use raftkv_proto::raftkv::v1::lease_server::LeaseServer;
use raftkv_proto::raftkv::v1::maintenance_server::MaintenanceServer;
use raftkv_proto::raftkv::v1::program_server::ProgramServer;
use raftkv_proto::raftkv::v1::sql_server::SqlServer;
use raftkv_proto::{MAX_REPLY_BYTES, MAX_REQUEST_BYTES};
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::timeout;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::{info, warn};

use crate::admin::Admin;
use crate::begin::{Answer as PeerAnswer, BeginError, Beginning, Lobby, Statement, list};
use crate::config::Config;
use crate::gate::{Gate, Open};
use crate::join::{self, IdTaken};
use crate::node::{self, Ended, Handle, Mailbox, StartError};
use crate::peer::Peer;
use crate::removal::Removal;
use crate::room::Room;
use crate::service::cluster::ClusterService;
use crate::service::kv::KvService;
use crate::service::lease::LeaseService;
use crate::service::maintenance::MaintenanceService;
use crate::service::program::ProgramService;
use crate::service::raft::RaftApi;
use crate::service::sql::SqlService;
use crate::store::Store;
use crate::verification::Verification;
use crate::{housekeeping, peers, storage};

/// A client service with the limits of message sizes. A macro, for the generated services share no trait.
macro_rules! limited {
    ($service:expr) => {
        $service.max_decoding_message_size(MAX_REQUEST_BYTES).max_encoding_message_size(MAX_REPLY_BYTES)
    };
}

/// How long a tick of the core's clock is at the most. A shorter heartbeat makes shorter ticks.
const MAX_TICK: Duration = Duration::from_millis(10);
/// How long a request may take altogether, its arrival included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server without a leader waits before it says so.
const ELECTION_PATIENCE: Duration = Duration::from_secs(3);
/// How long a stopping server waits for its clients to take their last answers.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// Why a server could not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The port is taken, or may not be used.
    #[error("can't listen on {address}: {why}; {}", if .why.kind() == io::ErrorKind::AddrNotAvailable {
        "--listen takes an IP address of this machine, or 0.0.0.0 for all of them; what others should dial is for --advertise"
    } else {
        "stop what uses the port, or choose another one with --port"
    })]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        why: io::Error,
    },
    /// The files can't be used.
    #[error(transparent)]
    Storage(#[from] raft_store_sqlite::Error),
    /// The node can't begin.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// The cluster has given this node's id to another one.
    #[error(transparent)]
    IdTaken(#[from] IdTaken),
    /// There is no id, and no cluster to ask for one.
    #[error("this node has no id")]
    NoId,
    /// The node did not start.
    #[error("the node can't start: {0}")]
    Start(#[from] StartError),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// The node ended, unasked.
    #[error("the node stopped: {0}")]
    Ended(Ended),
    /// The network server ended, unasked.
    #[error("the network server stopped: {0}")]
    Serve(String),
}

/// Runs a server until `stop` resolves, and stops it in order. Tells a person on standard output when it is ready.
///
/// # Errors
/// If it can't start, or ends by itself.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let mut stop = pin!(stop);
    let mut server = tokio::select! {
        server = Server::start(config) => server?,
        () = &mut stop => return Ok(()),
    };
    let _introduction = AbortOnDrop(tokio::spawn(server.introduce()).abort_handle());
    let outcome = tokio::select! {
        // A server that has ended is not stopped as if it had not.
        biased;
        error = server.ended() => Err(error),
        () = &mut stop => Ok(()),
    };
    server.stop().await;
    outcome
}

/// A running server. Dropping it ends it abruptly, as a crash does; see [`stop`](Self::stop).
#[derive(Debug)]
pub struct Server {
    gate: Arc<Gate>,
    listen: SocketAddr,
    folder: PathBuf,
    node: Handle<Answer>,
    node_ended: JoinHandle<Ended>,
    network: Network,
    transport: GrpcTransport,
    verification: Verification,
    /// Tasks that go with the server.
    _tasks: JoinSet<()>,
}

impl Server {
    /// Starts a server. Where the node has not begun, this waits for its peers, or for the cluster that it joins, as long as that takes; dropping
    /// the future gives up.
    ///
    /// # Errors
    /// If the settings, the folder or the peers do not allow it.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let (listener, listen) = bind(config.listen)?;
        loop {
            let listener = listener.try_clone().map_err(|why| Error::Listen { address: listen, why })?;
            match Self::start_on(listener, listen, &config).await {
                // Two nodes asked for an id at the same time, and this one was later.
                Err(Error::IdTaken(taken)) => info!("{taken}: asking for another one"),
                started => return started,
            }
        }
    }

    async fn start_on(listener: TcpListener, listen: SocketAddr, config: &Config) -> Result<Self, Error> {
        let address = config.advertise.address(listen.port());
        let directory = open_directory(config, listen.port()).await?;
        let folder = directory.folder().to_owned();
        let identity @ Identity { node: id, incarnation, .. } = directory.identity();
        info!("{id} at {address}, data in {}, disk {incarnation}", folder.display());

        let member = Member { address: address.clone(), incarnation, ..Member::default() };
        let lobby = Lobby::new(id, member, &config.peers, Contract::of_this_program()?);
        let gate = Arc::new(Gate::new(id, address, lobby));
        let network = Network::serve(listener, &gate).await?;
        let parts = match begin(directory, &gate, config).await {
            Err(Error::IdTaken(taken)) => {
                storage::forget(&folder, id)?;
                return Err(taken.into());
            }
            begun => begun?,
        };
        let (node, node_ended, open) = start_node(config, identity.node, parts, &folder, &gate)?;
        let (transport, verification) = (open.transport.clone(), open.verification.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(peers::check_flags(
            open.identity,
            config.peers.clone(),
            node.status().membership,
            transport.clone(),
        ));
        tasks.spawn(report_health(network.health.clone(), node.watch_status()));
        let schedule = housekeeping::Schedule { history: config.history, verify_every: config.verify_every };
        tasks.spawn(housekeeping::keep_house(open.store.clone(), verification.clone(), schedule));
        tasks.spawn(verification.clone().run());
        tasks.spawn(open.removal.clone().watch(open.store.clone(), open.identity));
        tasks.spawn(open.store.room().clone().watch(folder.clone()));
        gate.open(open);
        Ok(Self { gate, listen, folder, node, node_ended, network, transport, verification, _tasks: tasks })
    }

    /// Where others reach it, `host:port`.
    pub fn address(&self) -> &str {
        self.gate.address()
    }

    /// The node's status, and each change of it.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.node.watch_status()
    }

    /// Waits until it ends by itself, and says why.
    pub async fn ended(&mut self) -> Error {
        tokio::select! {
            ended = &mut self.node_ended => match self.verification.stops() {
                true => Error::Storage(self.verification.diverged().await),
                false => Error::Ended(ended.expect("waiting for a node does not panic")),
            },
            reason = self.network.ended() => Error::Serve(reason),
        }
    }

    /// Stops it in order: no new requests, an answer to each that is under way, then the node.
    pub async fn stop(self) {
        let Self { node, node_ended, network, transport, .. } = self;
        network.health.set_service_status("", ServingStatus::NotServing).await;
        network.refuse_new();
        node.shutdown();
        if !node_ended.is_finished() {
            let _ = node_ended.await;
        }
        transport.close();
        network.drain().await;
        info!("stopped");
    }

    /// Tells a person what runs here, once there is a leader.
    fn introduce(&self) -> impl Future<Output = ()> + use<> {
        let (gate, listen, folder) = (self.gate.clone(), self.listen, self.folder.clone());
        let mut status = self.node.watch_status();
        async move {
            let patience = timeout(ELECTION_PATIENCE, status.wait_for(|status| status.leader.is_some()));
            if patience.await.is_err() {
                warn!("no leader yet: most of the members must run, and reach each other");
            }
            // A copy: while the value itself is held the node can't publish the next one, and to look at the status again, as the banner
            // does, would then wait for the node, which waits for us.
            let led = status.wait_for(|status| status.leader.is_some()).await.map(|status| status.clone());
            if let Ok(status) = led {
                // Where nobody reads standard output any more, there is nobody to tell.
                let _ = writeln!(io::stdout(), "{}", banner(&gate, listen, &folder, &status));
            }
        }
    }
}

fn banner(gate: &Gate, listen: SocketAddr, folder: &Path, status: &Status) -> String {
    let address = gate.address();
    let statement = gate.statement();
    let role = match status.leader {
        Some(leader) if leader != status.id => format!("{}; node {} leads term {}", status.role, leader.0, status.term),
        _ => format!("{} of term {}", status.role, status.term),
    };
    let members = match statement.members.is_empty() {
        true => "whose members it is about to learn".to_owned(),
        false => format!("members {}", list(&statement.members)),
    };
    [
        format!("RaftKV {}", env!("CARGO_PKG_VERSION")),
        format!("  node     {}", status.id.0),
        format!("  address  {address} (listening on {listen})"),
        format!("  data     {}", folder.display()),
        format!("  cluster  {}, {members}", statement.cluster),
        format!("  role     {role}"),
        format!("ready; try: raftkv-cli -e {address} put x 1"),
    ]
    .join("\n")
}

fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |why| Error::Listen { address, why };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Opens the folder of the node that the settings name, or of the one that a cluster gives a place to.
async fn open_directory(config: &Config, port: u16) -> Result<DataDir, Error> {
    match (config.id, &config.join) {
        (Some(id), _) => Ok(storage::open(config.data_dir.as_deref(), id)?),
        (None, None) => Err(Error::NoId),
        (None, Some(join)) => {
            let folder = storage::folder_for_port(config.data_dir.as_deref(), port);
            let id = join::find_id(join, &folder).await?;
            Ok(storage::open(Some(&folder), id)?)
        }
    }
}

/// Makes sure that the node has begun: by its files, together with its peers, or as a part of the cluster that it joins.
async fn begin(mut directory: DataDir, gate: &Gate, config: &Config) -> Result<(Identity, Parts), Error> {
    let identity = directory.identity();
    let has_begun = identity.cluster != ClusterId::default();
    match (&config.restore, &config.join) {
        (Some(file), _) if has_begun => {
            warn!("--restore {} is not used: this node began before, and goes on with its own data", file.display());
        }
        _ if has_begun => (),
        (Some(file), _) => directory = restore(directory, gate, file.clone()).await?,
        (None, join) => {
            let beginning = match join {
                Some(join) => {
                    let joined = join::join(join, identity, gate.address(), gate.lobby(), config.id.is_some()).await;
                    // Its log comes from the leader, membership and all.
                    Beginning { cluster: joined?, stored: Stored::default() }
                }
                None => begin_with(&config.peers, identity, gate).await?,
            };
            directory.begin(beginning.cluster, &beginning.stored)?;
            info!("began as a part of cluster {}", beginning.cluster);
        }
    }
    let identity = directory.identity();
    Ok((identity, directory.into_parts()?))
}

/// Begins a new cluster of this node alone, with the data of a file.
async fn restore(mut directory: DataDir, gate: &Gate, file: PathBuf) -> Result<DataDir, Error> {
    let cluster = ClusterId(getrandom::u64().map_err(Error::Random)?.max(1));
    let member = gate.lobby().statement().member;
    info!("restoring {}", file.display());
    let restored = tokio::task::spawn_blocking(move || {
        let restored = directory.restore(cluster, member, &file)?;
        info!(
            "began cluster {cluster} with {}: revision {}, entry {}",
            file.display(),
            restored.revision,
            restored.last
        );
        Ok(directory)
    });
    restored.await.expect("restoring does not panic")
}

async fn begin_with(peers: &[Peer], identity: Identity, gate: &Gate) -> Result<Beginning, BeginError> {
    if peers.is_empty() {
        warn!(
            "no --peers and no --join: beginning a cluster of one, whose data is on this disk alone; other nodes can join it, but it can't \
             join another cluster any more"
        );
    }
    gate.lobby().agree(peers, |peer, own| ask(identity, peer, own)).await
}

/// Asks a peer who it is.
async fn ask(identity: Identity, peer: Peer, own: Statement) -> PeerAnswer {
    let request = IdentifyRequest { caller: Some(own.into()) };
    match identify(&peer.address, identity, request, &TransportOptions::default()).await {
        Ok(reply) => match Statement::try_from(reply) {
            Ok(statement) => PeerAnswer::Stated(statement),
            Err(malformed) => PeerAnswer::Refused(malformed.to_string()),
        },
        Err(raft_transport_grpc::Error::Refused(why)) => PeerAnswer::Refused(why),
        Err(error) => PeerAnswer::Silent(error.to_string()),
    }
}

fn start_node(
    config: &Config,
    id: NodeId,
    (identity, parts): (Identity, Parts),
    folder: &Path,
    gate: &Gate,
) -> Result<(Handle<Answer>, JoinHandle<Ended>, Open), Error> {
    let options = node_options(config, id)?;
    let (mailbox, inbox) = node::mailbox(&options);
    let runtime = runtime::Handle::current();
    let address = gate.address().to_owned();
    let contract = gate.lobby().statement().contract;
    let links = TransportOptions { contract: contract.to_string(), ..TransportOptions::default() };
    let Parts { log, state_machine, reader } = parts;
    let (recipient, staging, marks) = (Post(mailbox), state_machine.staging(), state_machine.marks());
    let transport = GrpcTransport::new(identity, address.clone(), links, runtime, recipient, staging);
    let (node, running) = node::start(options, inbox, log, state_machine, transport.clone())?;
    let ended = tokio::task::spawn_blocking(|| running.wait());
    let room = Room::new(config.min_free_space);
    room.look(folder);
    let store = Store::new(node.clone(), reader, transport.clone(), address, room);
    let admin = Admin::new(identity, contract, node.clone(), store.clone());
    let verification = Verification::new(identity, folder.to_owned(), node.clone(), transport.clone(), marks);
    Ok((node, ended, Open { identity, store, admin, transport, verification, removal: Removal::default() }))
}

/// The node's mailbox, as the transport sees it.
struct Post(Mailbox);

impl Recipient for Post {
    fn deliver(&self, envelope: Envelope) -> bool {
        self.0.deliver(envelope)
    }

    fn snapshot_progress(&self, to: NodeId) {
        self.0.snapshot_progress(to);
    }

    fn snapshot_sent(&self, to: NodeId, arrived: bool) {
        self.0.snapshot_sent(to, arrived);
    }
}

fn node_options(config: &Config, id: NodeId) -> Result<node::Options, Error> {
    let tick = config.heartbeat.min(MAX_TICK);
    let mut options = node::Options::new(id);
    options.tick = tick;
    options.core.heartbeat_ticks = ticks(config.heartbeat, tick);
    options.core.election_timeout_ticks = ticks(config.election_timeout, tick).max(2 * options.core.heartbeat_ticks);
    options.core.snapshot_after_entries = config.snapshot_after;
    options.core.kept_entries = config.keep_entries;
    options.core.seed = getrandom::u64().map_err(Error::Random)?;
    Ok(options)
}

/// How many ticks make up `duration`, at the least.
fn ticks(duration: Duration, tick: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(tick.as_nanos())).unwrap_or(u32::MAX / 4)
}

/// Says that the node serves while it knows a leader.
async fn report_health(health: HealthReporter, mut status: watch::Receiver<Status>) {
    loop {
        let has_leader = status.borrow_and_update().leader.is_some();
        let serving = if has_leader { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status("", serving).await;
        if status.changed().await.is_err() {
            return health.set_service_status("", ServingStatus::NotServing).await;
        }
    }
}

/// The network server, in a task of its own.
#[derive(Debug)]
struct Network {
    task: Option<JoinHandle<Result<(), tonic::transport::Error>>>,
    /// Ends the task with its owner.
    abort: AbortOnDrop,
    stop: watch::Sender<bool>,
    health: HealthReporter,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Network {
    async fn serve(listener: TcpListener, gate: &Arc<Gate>) -> Result<Self, Error> {
        let address = listener.local_addr().map_err(|error| Error::Serve(error.to_string()))?;
        let failed = |why| Error::Listen { address, why };
        let incoming = TransportOptions::incoming(tokio::net::TcpListener::from_std(listener).map_err(failed)?);
        let options = TransportOptions::default();
        let (health, health_service) = tonic_health::server::health_reporter();
        // Left alone, it would say that a node serves which has not even begun.
        health.set_service_status("", ServingStatus::NotServing).await;
        let router = options
            .server()
            .timeout(REQUEST_TIMEOUT)
            .add_service(health_service)
            .add_service(options.limit(RaftServiceServer::new(RaftApi::new(gate.clone()))))
            .add_service(limited!(KvServer::new(KvService::new(gate.clone()))))
            .add_service(limited!(LeaseServer::new(LeaseService::new(gate.clone()))))
            .add_service(limited!(MaintenanceServer::new(MaintenanceService::new(gate.clone()))))
            .add_service(limited!(ProgramServer::new(ProgramService::new(gate.clone()))))
            .add_service(limited!(SqlServer::new(SqlService::new(gate.clone()))))
            .add_service(limited!(ClusterServer::new(ClusterService::new(gate.clone()))));
        let (stop, mut stopped) = watch::channel(false);
        let until = async move {
            // Also resolves when the sender is gone.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let task = tokio::spawn(router.serve_with_incoming_shutdown(incoming, until));
        let abort = AbortOnDrop(task.abort_handle());
        Ok(Self { task: Some(task), abort, stop, health })
    }

    /// Waits until it ends by itself, and says why.
    async fn ended(&mut self) -> String {
        let Some(task) = &mut self.task else { return std::future::pending().await };
        let reason = match task.await {
            Ok(Ok(())) => "it was not asked to".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.task = None;
        reason
    }

    /// Takes no new connections and requests from now on.
    fn refuse_new(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until the requests under way are answered, but not for ever.
    async fn drain(self) {
        if let Some(task) = self.task
            && timeout(DRAIN_PATIENCE, task).await.is_err()
        {
            info!("some connections are still open; closing them");
        }
        drop(self.abort);
    }
}
