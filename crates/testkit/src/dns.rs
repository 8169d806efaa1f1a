//! A name server that says what it is told, over UDP.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;

/// What is answered to every question of the right kind.
#[derive(Debug, Clone)]
pub enum Says {
    /// These addresses, with a time to live of nothing.
    Addresses(Vec<IpAddr>),
    /// There is no such name.
    NoSuchName,
    /// The server failed.
    Failed,
    /// Nothing at all.
    Nothing,
}

/// The server.
pub struct Dns {
    pub address: SocketAddr,
    says: Arc<Mutex<Says>>,
    asked: Arc<Mutex<usize>>,
}

impl Dns {
    pub async fn start(says: Says) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (says, asked) = (Arc::new(Mutex::new(says)), Arc::new(Mutex::new(0)));
        let (telling, counting) = (Arc::clone(&says), Arc::clone(&asked));
        tokio::spawn(async move {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question).await {
                *counting.lock().unwrap() += 1;
                let says = telling.lock().unwrap().clone();
                if let Some(answer) = answer(&question[..length], &says) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        Self { address, says, asked }
    }

    pub fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// Questions so far.
    pub fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }
}

fn answer(question: &[u8], says: &Says) -> Option<Vec<u8>> {
    let name_end = 12 + question[12..].iter().position(|byte| *byte == 0)? + 1;
    let kind = u16::from_be_bytes([question[name_end], question[name_end + 1]]);
    let mut records = Vec::new();
    let code = match says {
        Says::Nothing => return None,
        Says::Failed => 2,
        Says::NoSuchName => 3,
        Says::Addresses(addresses) => {
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
