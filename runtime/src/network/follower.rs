//! Keeps the guest's network as the namespace's is. One task owns it all.

use std::sync::Arc;

use futures::StreamExt;
use rtnetlink::{
    packet_core::NetlinkPayload,
    packet_route::{RouteNetlinkMessage, neighbour::NeighbourState},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    endpoint::{Endpoint, Neighbour, Route, Scan},
    guest,
    joints::{Added, Joints, Parted},
};
use crate::{
    agent::AgentClient,
    error::{Context, Result},
    vm::Vm,
};

/// What somebody waits for.
pub(super) enum Request {
    /// The guest to have what stands in the namespace.
    Settle(oneshot::Sender<Result<()>>),
    /// The namespace's own stack to hear answers to its questions for names.
    KeepAnswers(oneshot::Sender<()>),
}

pub(super) struct Follower {
    joints: Joints,
    vm: Arc<dyn Vm>,
    agent: Arc<AgentClient>,
    told: Told,
}

/// What the guest knows.
#[derive(Default)]
struct Told {
    endpoints: Vec<Endpoint>,
    routes: Vec<Route>,
    neighbours: Vec<Neighbour>,
    /// The endpoints that outsiders read of.
    recorded: Vec<Endpoint>,
    /// What people were told that the guest does not have.
    left_out: Vec<String>,
}

impl Follower {
    /// Of a VM that has the cards of `joints`.
    pub fn new(mut joints: Joints, vm: Arc<dyn Vm>, agent: Arc<AgentClient>) -> Self {
        joints.hand_over();
        Self { joints, vm, agent, told: Told::default() }
    }

    /// Until nobody is left to ask, which is when the sandbox stops.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            // Both are cancel-safe.
            tokio::select! {
                request = requests.recv() => {
                    let Some(request) = request else { return };
                    self.serve(request).await;
                }
                event = self.joints.connection.events.next() => {
                    let Some((event, _)) = event else {
                        tracing::error!("the kernel's news of the network have ended: the guest's stays as it is");
                        return self.answer(requests).await;
                    };
                    if is_small_talk(&event.payload) {
                        continue;
                    }
                    // Many come at once, and one look finds all.
                    self.forget_events();
                    if let Err(error) = self.settle().await {
                        tracing::error!(%error, "the guest's network does not follow");
                    }
                }
            }
        }
    }

    /// Without news, what is asked for can still be done.
    async fn answer(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            self.serve(request).await;
        }
    }

    /// Does what is asked for. Whoever asked may have left.
    async fn serve(&mut self, request: Request) {
        match request {
            Request::Settle(answer) => {
                self.forget_events();
                let _ = answer.send(self.settle().await);
            }
            Request::KeepAnswers(answer) => {
                self.joints.keep_answers().await;
                let _ = answer.send(());
            }
        }
    }

    fn forget_events(&mut self) {
        while let Ok(_event) = self.joints.connection.events.try_recv() {}
    }

    /// Gives the guest what stands in the namespace now.
    async fn settle(&mut self) -> Result<()> {
        let scan = self.joints.scan().await?;
        for fact in scan.left_out.iter().filter(|fact| !self.told.left_out.contains(fact)) {
            tracing::warn!(fact, "the guest's network lacks something");
        }
        self.told.left_out.clone_from(&scan.left_out);
        for parted in self.joints.part(&scan.endpoints).await? {
            self.remove(parted).await.context("unplug the cable of a card")?;
        }
        let mut first = Ok(());
        for endpoint in scan
            .endpoints
            .iter()
            .filter(|endpoint| !self.joints.has(endpoint.index))
            .cloned()
            .collect::<Vec<_>>()
        {
            let added = self.add(&endpoint).await;
            if added.is_err() && self.joints.is_gone(endpoint.index).await {
                continue; // Of which there will be news.
            }
            first = first.and(added.with_context(|| format!("interface {}", endpoint.name)));
        }
        self.tell(scan).await?;
        first
    }

    /// Takes a card away whose link has gone. The guest may not want to let it go: then it keeps it, without a cable, and
    /// the port is lost.
    async fn remove(&mut self, parted: Parted) -> Result<()> {
        let Parted { number, link, mac, name } = parted;
        self.vm.connect_network(number, false).await?;
        // Of a card that goes unasked, a guest whose ports are quiet would know nothing.
        if let Err(error) = self.agent.remove_interface(guest::colons(&mac), name.clone()).await {
            tracing::warn!(%error, name, "the guest does not let go of a card whose link has gone");
        }
        match self.vm.remove_network(number).await {
            Ok(()) => {
                self.told.endpoints.retain(|told| told.index != link);
                self.joints.give_up(number).await
            }
            Err(error) => {
                tracing::warn!(%error, name, "the guest keeps a card whose link has gone");
                Ok(())
            }
        }
    }

    async fn add(&mut self, endpoint: &Endpoint) -> Result<()> {
        match self.joints.add(endpoint).await? {
            Added::Back(number) => self.vm.connect_network(number, true).await,
            Added::New(nic) => {
                let number = nic.number;
                let added = self.vm.add_network(nic).await;
                if added.is_err() {
                    self.joints.give_up(number).await?;
                }
                added
            }
        }
    }

    /// Tells the guest what it does not know yet.
    async fn tell(&mut self, mut scan: Scan) -> Result<()> {
        scan.endpoints.retain(|endpoint| self.joints.has(endpoint.index));
        let there = |link: u32| scan.endpoints.iter().any(|endpoint| endpoint.index == link);
        scan.routes.retain(|route| there(route.link));
        scan.neighbours.retain(|neighbour| there(neighbour.link));
        // A card that the guest has kept loses its link's addresses.
        for gone in self.told.endpoints.extract_if(.., |told| !there(told.index)) {
            let bare = Endpoint { addresses: Vec::new(), ..gone };
            if let Err(error) = self.agent.update_interface(&guest::interface(&bare)).await {
                tracing::warn!(%error, "a card without a link may have addresses still");
            }
        }
        let mut changed = false;
        for endpoint in &scan.endpoints {
            let told = self.told.endpoints.iter().position(|told| told.index == endpoint.index);
            if told.is_some_and(|at| self.told.endpoints[at] == *endpoint) {
                continue;
            }
            if told.is_some_and(|at| self.told.endpoints[at].mtu != endpoint.mtu) {
                self.joints.resize(endpoint).await?;
            }
            let request = guest::interface(endpoint);
            self.agent
                .update_interface(&request)
                .await
                .with_context(|| format!("interface {}", endpoint.name))?;
            match told {
                Some(at) => self.told.endpoints[at] = endpoint.clone(),
                None => self.told.endpoints.push(endpoint.clone()),
            }
            changed = true;
        }
        if self.told.recorded != self.told.endpoints {
            self.joints.record(&self.told.endpoints)?;
            self.told.recorded.clone_from(&self.told.endpoints);
        }
        // A link that was down meanwhile has lost its routes.
        if self.told.routes != scan.routes || changed && !scan.routes.is_empty() {
            self.agent.update_routes(&guest::routes(&scan.routes, &scan.endpoints)).await?;
            self.told.routes = scan.routes;
        }
        if self.told.neighbours != scan.neighbours || changed && !scan.neighbours.is_empty() {
            self.agent.add_arp_neighbors(&guest::neighbours(&scan.neighbours, &scan.endpoints)).await?;
            self.told.neighbours = scan.neighbours;
        }
        Ok(())
    }
}

/// News of a neighbour that was asked for, of which there may be many.
fn is_small_talk(news: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    match news {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(neighbour)) => {
            neighbour.header.state != NeighbourState::Permanent
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(_)) => true,
        _ => false,
    }
}
