//! How connections to an endpoint come to be, and what they speak.

use super::lane::{Lane, Place, Standing};
use super::{Http1Connection, Lanes, Ready, Remote};
use crate::error::{ConnectError, Failure};
use crate::external::Server;
use crate::h1::wire::Wire;
use crate::metrics::Direction;
use crate::normalize::Rejection;
use crate::proof::{Claim, Claims, Ends, Until, Validity};
use crate::redirect::OwnPorts;
use crate::socket::Socket;
use crate::tls::{self, Alpn, Wanted};
use crate::upstream::{Wait, connect, connect_outside, connect_sidecar};
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tokio::time::timeout;

/// What a handshake led to.
pub(super) enum Connected {
    Lane(Lane),
    Http1(Box<Http1Connection>),
}

impl Connected {
    /// Makes it the way for requests to come, this one first.
    pub(super) fn into_ready(self, lanes: &Lanes) -> Ready {
        let speaks_http1 = matches!(self, Self::Http1(_));
        lanes.speaks_http1.store(speaks_http1, Ordering::Relaxed);
        match self {
            Self::Http1(connection) => Ready::Http1(connection),
            Self::Lane(lane) => {
                let ready = lane.reserve();
                lanes.lock().push(lane);
                ready
            }
        }
    }
}

impl Lanes {
    /// One more, within `limit`.
    pub(super) async fn connect(
        self: &Arc<Self>,
        limit: Duration,
    ) -> Result<Connected, ConnectError> {
        let connect = async {
            match &self.remote {
                Remote::App => {
                    let stream = connect(&self.destination).await?;
                    Ok(Connected::Lane(self.lane(stream, None).await?))
                }
                Remote::Outside { server, own } => {
                    let server = server.as_ref();
                    self.outside(server, Wanted::Http, own).await
                }
                Remote::Sidecar {
                    connector, claims, ..
                } => {
                    let connected =
                        connect_sidecar(&self.destination, connector, &self.metrics).await?;
                    // What was not offered is not agreed to.
                    if connected.alpn != Alpn::Http2 {
                        return Ok(Connected::Http1(self.http1(connected)));
                    }
                    let claim = Claim::of(&connected)?;
                    let claims = Some((claim, Arc::clone(claims)));
                    let lane = self.lane(Box::new(connected.tls), claims).await?;
                    Ok(Connected::Lane(lane))
                }
            }
        };
        timeout(limit, connect)
            .await
            .unwrap_or(Err(ConnectError::Timeout(limit)))
    }

    /// One more to a server outside, which says what is spoken unless only HTTP/1.1 is `wanted`.
    async fn outside(
        &self,
        server: Option<&Server>,
        wanted: Wanted,
        own: &OwnPorts,
    ) -> Result<Connected, ConnectError> {
        let stream = connect_outside(&self.destination, own).await?;
        let (stream, alpn): (Box<dyn Socket>, _) = match server {
            None => (stream, Alpn::Http1),
            Some(server) => {
                let (tls, alpn) = server.connect(stream, wanted, &self.metrics).await?;
                (Box::new(tls), alpn)
            }
        };
        if alpn == Alpn::Http2 {
            return Ok(Connected::Lane(self.lane(stream, None).await?));
        }
        let wire = Wire::new(stream, BytesMut::new());
        let connection = Http1Connection::new(wire, None).counted(&self.open_http1);
        Ok(Connected::Http1(Box::new(connection)))
    }

    /// A connection for one upgrade, if the lane carries none.
    pub(super) async fn around(
        &self,
        sender: &SendRequest<Bytes>,
        place: &Place,
        wait: Wait,
    ) -> Result<Option<Box<Http1Connection>>, Failure> {
        let limit = wait.limit();
        let late = |_| ConnectError::Timeout(limit);
        match &self.remote {
            Remote::App => Err(Rejection::Upgrade.into()),
            Remote::Sidecar { http1, .. } => {
                let takes_upgrades = timeout(limit, place.takes_upgrades(sender)).await;
                if takes_upgrades.map_err(late)? {
                    return Ok(None);
                }
                let connecting = connect_sidecar(&self.destination, http1, &self.metrics);
                let connected = timeout(limit, connecting).await.map_err(late)??;
                Ok(Some(self.http1(connected)))
            }
            // Few servers carry them over HTTP/2, and over HTTP/1.1 each that takes any.
            Remote::Outside { server, own } => {
                let connecting = self.outside(server.as_ref(), Wanted::Http1, own);
                match timeout(limit, connecting).await.map_err(late)?? {
                    Connected::Http1(connection) => Ok(Some(connection)),
                    Connected::Lane(_) => Err(ConnectError::Protocol.into()),
                }
            }
        }
    }

    async fn lane(
        &self,
        socket: Box<dyn Socket>,
        claims: Option<(Claim, Arc<Claims<Standing>>)>,
    ) -> Result<Lane, ConnectError> {
        let direction = match self.remote {
            Remote::App => Direction::Inbound,
            Remote::Sidecar { .. } | Remote::Outside { .. } => Direction::Outbound,
        };
        Lane::open(socket, claims, (Arc::clone(&self.metrics), direction)).await
    }

    fn http1(&self, connected: tls::Connected<Box<dyn Socket>>) -> Box<Http1Connection> {
        let retire_at = Validity::new(SystemTime::now(), connected.ends).retire_at;
        let ends = Ends::new(connected.ends, connected.revocable);
        let socket = Box::new(Until::new(Box::new(connected.tls), ends));
        let wire = Wire::new(socket, BytesMut::new());
        Box::new(Http1Connection::new(wire, Some(retire_at)).counted(&self.open_http1))
    }
}
