//! A DNS server that says what a test wants it to.

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// What it answers beyond the records that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// That there is no such name, whatever it has.
    NoName,
    /// That there is nothing of this type.
    Empty,
    /// That it cannot.
    Fails,
    /// Bytes that are no DNS.
    Garbage,
    Silent,
}

/// Serves until dropped.
pub(crate) struct Nameserver {
    pub(crate) address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    _serving: JoinSet<()>,
}

struct Zone {
    mood: Mood,
    /// Queries that nobody answers.
    lost: Vec<(Name, RecordType)>,
    records: HashMap<Name, Vec<Record>>,
}

impl Nameserver {
    pub(crate) async fn start() -> Self {
        Self::on("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn on(address: SocketAddr) -> Self {
        let mut sockets = both(address).await;
        for _ in 0..10 {
            if sockets.is_err() && address.port() == 0 {
                sockets = both(address).await;
            }
        }
        let (udp, tcp) = sockets.unwrap();
        let address = udp.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Zone {
            mood: Mood::Well,
            lost: Vec::new(),
            records: HashMap::new(),
        }));
        let mut serving = JoinSet::new();
        let of_udp = Arc::clone(&zone);
        serving.spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut query).await {
                let answer = of_udp.lock().unwrap().answer(&query[..length], 1232);
                if let Some(answer) = answer {
                    // Whoever asked may be gone.
                    let _ = udp.send_to(&answer, from).await;
                }
            }
        });
        let of_tcp = Arc::clone(&zone);
        serving.spawn(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&of_tcp)));
            }
        });
        Self {
            address,
            zone,
            _serving: serving,
        }
    }

    pub(crate) fn is(&self, mood: Mood) {
        self.zone.lock().unwrap().mood = mood;
    }

    /// Has no answer from now on to these alone.
    pub(crate) fn loses(&self, name: &str, types: &[RecordType]) {
        let name = Name::from_ascii(name).unwrap();
        let lost = types.iter().map(|lost| (name.clone(), *lost));
        self.zone.lock().unwrap().lost = lost.collect();
    }

    /// Has `name` stand for these and nothing else.
    pub(crate) fn set(&self, name: &str, ttl: u32, data: impl IntoIterator<Item = RData>) {
        let name = Name::from_ascii(name).unwrap();
        let records = data
            .into_iter()
            .map(|data| Record::from_rdata(name.clone(), ttl, data));
        let records = records.collect();
        self.zone.lock().unwrap().records.insert(name, records);
    }

    pub(crate) fn addresses(&self, name: &str, ttl: u32, addresses: &[IpAddr]) {
        self.set(name, ttl, addresses.iter().copied().map(RData::from));
    }
}

async fn both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind(address).await?;
    let tcp = TcpListener::bind(udp.local_addr()?).await?;
    Ok((udp, tcp))
}

async fn serve(mut stream: TcpStream, zone: Arc<Mutex<Zone>>) -> io::Result<()> {
    loop {
        let mut query = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut query).await?;
        let answer = zone.lock().unwrap().answer(&query, usize::from(u16::MAX));
        if let Some(answer) = answer {
            stream.write_u16(answer.len() as u16).await?;
            stream.write_all(&answer).await?;
        }
    }
}

impl Zone {
    fn answer(&self, query: &[u8], room: usize) -> Option<Vec<u8>> {
        let mut message = Message::from_vec(query).unwrap().into_response();
        let asked = message.queries.first().unwrap().clone();
        let is_lost =
            |(name, lost): &(Name, RecordType)| name == asked.name() && *lost == asked.query_type();
        match self.mood {
            _ if self.lost.iter().any(is_lost) => return None,
            Mood::Silent => return None,
            Mood::Garbage => return Some([&query[..2], &[0xFF; 40]].concat()),
            Mood::Fails => message.metadata.response_code = ResponseCode::ServFail,
            Mood::NoName => message.metadata.response_code = ResponseCode::NXDomain,
            Mood::Empty => {}
            Mood::Well => match self.records.get(asked.name()) {
                None => message.metadata.response_code = ResponseCode::NXDomain,
                Some(records) => {
                    let is_asked = |record: &&Record| {
                        let record_type = record.record_type();
                        record_type == asked.query_type() || record_type == RecordType::CNAME
                    };
                    message.add_answers(records.iter().filter(is_asked).cloned());
                }
            },
        }
        let answer = message.to_vec().unwrap();
        if answer.len() <= room {
            return Some(answer);
        }
        message.answers.clear();
        message.metadata.truncation = true;
        Some(message.to_vec().unwrap())
    }
}
