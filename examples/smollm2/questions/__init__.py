"""The demo's questions, one module a task: tables of facts and templates in, questions out."""
