//! The official SDK for Node, its two newest majors.

use crate::script::Script;

#[tokio::test]
async fn openai_node_7_answers_and_errors_are_its_own() -> anyhow::Result<()> {
    Script::node("openai-7", "basics.mjs").check().await
}

#[tokio::test]
async fn openai_node_7_streams_are_whole() -> anyhow::Result<()> {
    Script::node("openai-7", "streaming.mjs").check().await
}

#[tokio::test]
async fn openai_node_7_refusals_are_its_own_errors() -> anyhow::Result<()> {
    Script::node("openai-7", "limits.mjs").check_limits().await
}

#[tokio::test]
async fn openai_node_7_can_leave_at_any_time() -> anyhow::Result<()> {
    Script::node("openai-7", "resilience.mjs").check().await
}

#[tokio::test]
async fn openai_node_6_answers_and_errors_are_its_own() -> anyhow::Result<()> {
    Script::node("openai-6", "basics.mjs").check().await
}

#[tokio::test]
async fn openai_node_6_streams_are_whole() -> anyhow::Result<()> {
    Script::node("openai-6", "streaming.mjs").check().await
}

#[tokio::test]
async fn openai_node_6_refusals_are_its_own_errors() -> anyhow::Result<()> {
    Script::node("openai-6", "limits.mjs").check_limits().await
}

#[tokio::test]
async fn openai_node_6_can_leave_at_any_time() -> anyhow::Result<()> {
    Script::node("openai-6", "resilience.mjs").check().await
}

#[tokio::test]
async fn openai_node_7_calls_forms_choices_and_log_probabilities_are_its_own() -> anyhow::Result<()>
{
    Script::node("openai-7", "outputs.mjs").check().await
}

#[tokio::test]
async fn openai_node_6_calls_forms_choices_and_log_probabilities_are_its_own() -> anyhow::Result<()>
{
    Script::node("openai-6", "outputs.mjs").check().await
}

#[tokio::test]
async fn openai_node_7_reads_vectors_in_both_encodings() -> anyhow::Result<()> {
    Script::node("openai-7", "embeddings.mjs").check_embeddings().await
}

#[tokio::test]
async fn openai_node_6_reads_vectors_in_both_encodings() -> anyhow::Result<()> {
    Script::node("openai-6", "embeddings.mjs").check_embeddings().await
}
