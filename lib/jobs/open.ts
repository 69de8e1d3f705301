/** Chooses the job runner: configuration in, port out. The only place that imports the adapters. */
import type { Clock } from "../clock.ts";
import type { Environment } from "../config/env.ts";
import { AppError } from "../errors.ts";
import type { JobRunner } from "./job-runner.ts";

/** Which job runner, and where. */
export type JobRunnerSetting =
  /** Processes on this machine; `folder` is shared by all agents of the exchange here. */
  | { readonly kind: "local"; readonly folder: string }
  /** Jobs in the agent's own namespace. */
  | { readonly kind: "kubernetes" };

/** What every runner needs of its agent. */
export interface JobRunnerContext {
  readonly steward: string;
  readonly clock: Clock;
  /** The agent's environment, of which containers get nothing that may be secret. */
  readonly environment: Environment;
  /** Hears of what goes wrong where nobody waits. */
  readonly report: (error: AppError) => void;
}

/** Reads `local:<folder>` or `kubernetes`. Anything else: `configuration_invalid`. */
export function parseJobRunnerSetting(text: string): JobRunnerSetting {
  if (text === "kubernetes") return { kind: "kubernetes" };
  const folder = /^local:(.+)$/.exec(text)?.[1];
  if (folder !== undefined) return { kind: "local", folder };
  throw new AppError(
    "configuration_invalid",
    `${JSON.stringify(text)} names no job runner: it is local:<folder> or kubernetes.`,
  );
}

/** Opens the runner that the setting names. */
export async function openJobRunner(setting: JobRunnerSetting, context: JobRunnerContext): Promise<JobRunner> {
  switch (setting.kind) {
    case "local": {
      const { openLocalJobRunner } = await import("./local.ts");
      return openLocalJobRunner({ ...context, stateFolder: setting.folder });
    }
    case "kubernetes":
      throw new AppError(
        "configuration_invalid",
        "The job runner for Kubernetes is not part of this version: use local:<folder>.",
      );
    default:
      return setting satisfies never;
  }
}
