/** What the routes work with. */
import type { JWK } from "jose";
import type { OrchestratorContext } from "../context.ts";
import type { JobTokens } from "../job-tokens.ts";
import type { KeptAnswers } from "../kept-answers.ts";
import type { Callers } from "./caller.ts";

/** See the file comment. */
export interface HttpContext {
  readonly orchestrator: OrchestratorContext;
  readonly callers: Callers;
  readonly tokens: JobTokens;
  readonly answers: KeptAnswers;
  /** Keys that tokens are signed with; only their public halves are published. */
  readonly signingKeys: readonly JWK[];
}
