//! The official SDK for Python, its two newest majors.

use crate::script::Script;

#[tokio::test]
async fn openai_python_3_answers_and_errors_are_its_own() -> anyhow::Result<()> {
    Script::python("openai-3", "basics.py").check().await
}

#[tokio::test]
async fn openai_python_3_streams_are_whole() -> anyhow::Result<()> {
    Script::python("openai-3", "streaming.py").check().await
}

#[tokio::test]
async fn openai_python_3_refusals_are_its_own_errors() -> anyhow::Result<()> {
    Script::python("openai-3", "limits.py").check_limits().await
}

#[tokio::test]
async fn openai_python_3_can_leave_at_any_time() -> anyhow::Result<()> {
    Script::python("openai-3", "resilience.py").check().await
}

#[tokio::test]
async fn openai_python_2_answers_and_errors_are_its_own() -> anyhow::Result<()> {
    Script::python("openai-2", "basics.py").check().await
}

#[tokio::test]
async fn openai_python_2_streams_are_whole() -> anyhow::Result<()> {
    Script::python("openai-2", "streaming.py").check().await
}

#[tokio::test]
async fn openai_python_2_refusals_are_its_own_errors() -> anyhow::Result<()> {
    Script::python("openai-2", "limits.py").check_limits().await
}

#[tokio::test]
async fn openai_python_2_can_leave_at_any_time() -> anyhow::Result<()> {
    Script::python("openai-2", "resilience.py").check().await
}

#[tokio::test]
async fn openai_python_3_calls_forms_choices_and_log_probabilities_are_its_own()
-> anyhow::Result<()> {
    Script::python("openai-3", "outputs.py").check().await
}

#[tokio::test]
async fn openai_python_2_calls_forms_choices_and_log_probabilities_are_its_own()
-> anyhow::Result<()> {
    Script::python("openai-2", "outputs.py").check().await
}

#[tokio::test]
async fn openai_python_3_reads_vectors_in_both_encodings() -> anyhow::Result<()> {
    Script::python("openai-3", "embeddings.py").check_embeddings().await
}

#[tokio::test]
async fn openai_python_2_reads_vectors_in_both_encodings() -> anyhow::Result<()> {
    Script::python("openai-2", "embeddings.py").check_embeddings().await
}

#[tokio::test]
async fn vectors_of_a_real_model_are_those_of_another_implementation() -> anyhow::Result<()> {
    Script::python("openai-3", "sentences.py").check_sentences().await
}
