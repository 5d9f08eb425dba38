//! Runs AdamW natively, for `stepbox bench overhead --component … --native-crate optimizers/adamw`.

fn main() -> std::io::Result<()> {
    stepbox_guest::bench::serve::<optimizer_adamw::AdamW>()
}
