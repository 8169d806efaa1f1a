//! A DNS server over UDP whose answers a test sets.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;

/// An answer to every question.
#[derive(Debug, Clone)]
pub enum DnsResponse {
    /// Those of these addresses whose type is asked for, with a TTL of 0.
    Addresses(Vec<IpAddr>),
    /// `NXDOMAIN`: there is no such name.
    NoSuchName,
    /// `SERVFAIL`: the server failed.
    Failed,
    /// No answer at all: the query times out.
    Silence,
}

/// A running DNS server.
pub struct Dns {
    pub address: SocketAddr,
    response: Arc<Mutex<DnsResponse>>,
    query_count: Arc<Mutex<usize>>,
}

impl Dns {
    pub async fn start(response: DnsResponse) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (response, query_count) = (Arc::new(Mutex::new(response)), Arc::new(Mutex::new(0)));
        let (current, counter) = (Arc::clone(&response), Arc::clone(&query_count));
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                *counter.lock().unwrap() += 1;
                let response = current.lock().unwrap().clone();
                if let Some(answer) = answer(&question[..length], &response) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        Self { address, response, query_count }
    }

    pub fn set_response(&self, response: DnsResponse) {
        *self.response.lock().unwrap() = response;
    }

    /// Number of queries so far.
    pub fn query_count(&self) -> usize {
        *self.query_count.lock().unwrap()
    }
}

fn answer(question: &[u8], response: &DnsResponse) -> Option<Vec<u8>> {
    let name_end = 12 + question[12..].iter().position(|byte| *byte == 0)? + 1;
    let kind = u16::from_be_bytes([question[name_end], question[name_end + 1]]);
    let mut records = Vec::new();
    let code = match response {
        DnsResponse::Silence => return None,
        DnsResponse::Failed => 2,
        DnsResponse::NoSuchName => 3,
        DnsResponse::Addresses(addresses) => {
            for address in addresses {
                let (of, bytes) = match address {
                    IpAddr::V4(v4) => (1_u8, v4.octets().to_vec()),
                    IpAddr::V6(v6) => (28, v6.octets().to_vec()),
                };
                if u16::from(of) == kind {
                    records.push((of, bytes));
                }
            }
            0
        }
    };
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80 | code, 0, 1]);
    answer.extend(u16::try_from(records.len()).unwrap().to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(&question[12..name_end + 4]);
    for (of, bytes) in records {
        answer.extend([0xc0, 12, 0, of, 0, 1, 0, 0, 0, 0]);
        answer.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        answer.extend(bytes);
    }
    Some(answer)
}
