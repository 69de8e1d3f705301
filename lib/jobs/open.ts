/** Chooses the job runner: configuration in, port out. The only place that imports the adapters. */
import type { Clock } from "../clock.ts";
import type { Environment } from "../config/env.ts";
import { AppError } from "../errors.ts";
import type { JobRunner } from "./job-runner.ts";

/** Which job runner, and where. */
export type JobRunnerSetting =
  /** Processes on this machine; `folder` is shared by all agents of the exchange here. */
  | { readonly kind: "local"; readonly folder: string }
  /** Jobs in the agent's own namespace, made as this file says. */
  | { readonly kind: "kubernetes"; readonly file: string };

/** Where the agent's chart puts the jobs file. */
export const DEFAULT_JOBS_FILE = "/etc/dynamos/jobs/jobs.json";

/** What every runner needs of its agent. */
export interface JobRunnerContext {
  readonly steward: string;
  readonly clock: Clock;
  /** The agent's environment, of which containers get nothing that may be secret. */
  readonly environment: Environment;
  /** Hears of what goes wrong where nobody waits. */
  readonly report: (error: AppError) => void;
  /** The agent's own pod, on a cluster. */
  readonly podName?: string;
}

/** Reads `local:<folder>`, `kubernetes:<file>`, or `kubernetes` for {@link DEFAULT_JOBS_FILE}. Anything else: `configuration_invalid`. */
export function parseJobRunnerSetting(text: string): JobRunnerSetting {
  if (text === "kubernetes") return { kind: "kubernetes", file: DEFAULT_JOBS_FILE };
  const file = /^kubernetes:(.+)$/.exec(text)?.[1];
  if (file !== undefined) return { kind: "kubernetes", file };
  const folder = /^local:(.+)$/.exec(text)?.[1];
  if (folder !== undefined) return { kind: "local", folder };
  throw new AppError(
    "configuration_invalid",
    `${JSON.stringify(text)} names no job runner: it is local:<folder> or kubernetes:<file>.`,
  );
}

/** Opens the runner that the setting names. */
export async function openJobRunner(setting: JobRunnerSetting, context: JobRunnerContext): Promise<JobRunner> {
  switch (setting.kind) {
    case "local": {
      const { openLocalJobRunner } = await import("./local.ts");
      return openLocalJobRunner({ ...context, stateFolder: setting.folder });
    }
    case "kubernetes": {
      const [{ openKubernetesJobRunner }, { loadKubernetesSettings }] = await Promise.all([
        import("./kubernetes.ts"),
        import("./kubernetes-settings.ts"),
      ]);
      const { steward, clock, report, podName } = context;
      const settings = await loadKubernetesSettings(setting.file);
      return openKubernetesJobRunner({
        settings,
        steward,
        clock,
        report,
        ...(podName === undefined ? {} : { podName }),
      });
    }
    default:
      return setting satisfies never;
  }
}
