//! What the server tells an optimizer about a round and a tensor.

/// What is the same for all elements of a tensor in one round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Context {
    /// The round of this tensor: 1 in its first.
    pub step: u64,
    /// Rounds in which this tensor was updated since its slots were made, this one included: what bias corrections
    /// count with.
    pub tensor_step: u64,
    /// The learning rate of this round.
    pub learning_rate: f32,
    /// The largest learning rate of the schedule; equal to `learning_rate` where it is constant.
    pub peak_learning_rate: f32,
    /// How many workers' gradients the aggregate holds.
    pub contributors: u32,
    /// How many rounds old the oldest of them is; 0 in synchronous training.
    pub staleness: u32,
    /// Mean of the losses the workers reported, where they did.
    pub loss: Option<f32>,
    /// Key of the random stream, constant for a job.
    pub seed: u64,
}

/// A tensor of the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tensor {
    /// The key under which workers push and pull it.
    pub name: String,
    /// Extents, outermost first; row-major. Empty for a scalar.
    pub shape: Vec<u64>,
    /// The group the operator put it in, empty for none.
    pub group: String,
    /// Free labels.
    pub tags: Vec<String>,
    /// A number for this tensor that is the same on every shard and server.
    pub identity: u64,
}
