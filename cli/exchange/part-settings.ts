/** Settings of single parts of an exchange, by the part's or the process's name. Pure. */
import { AgentSettings } from "../../agent/config.ts";
import { AppError } from "../../lib/errors.ts";
import { OrchestratorSettings } from "../../orchestrator/config.ts";
import { PolicyEnforcerSettings } from "../../orchestrator/policy-enforcer/config.ts";
import { MessagingSettings } from "../../sidecar/messaging-config.ts";
import { sidecarName, type PartProcess } from "./parts.ts";

/** Environment variables by the name of a part (`agent-VU`: all its replicas), a process (`agent-VU-2`), or a separate sidecar. */
export type PartSettings = Readonly<Record<string, Readonly<Record<string, string>>>>;

/** By program: what is there besides is nobody's. */
const SETTINGS_OF: Readonly<Record<string, { readonly properties: object }>> = {
  "agent/main": AgentSettings,
  "orchestrator/main": OrchestratorSettings,
  "orchestrator/policy-enforcer/main": PolicyEnforcerSettings,
};

/** What Node.js and OpenTelemetry read by themselves. */
const OF_EVERY_PROGRAM = /^(NODE|OTEL)_/;

/**
 * Fails where a setting is for nobody, or is none of its part's: a program does not look at variables that it does not know, so
 * that a slip of the pen would change nothing and say nothing. Values are checked by the programs.
 *
 * @throws AppError `configuration_invalid`, which names what there is.
 */
export function requirePartSettings(settings: PartSettings, processes: readonly PartProcess[]): void {
  const known = new Map<string, readonly string[]>();
  for (const { name, part, program } of processes) {
    const names = Object.keys(SETTINGS_OF[program]?.properties ?? {});
    for (const each of [part, name]) {
      known.set(each, names);
      known.set(sidecarName(each), Object.keys(MessagingSettings.properties));
    }
  }
  for (const [part, variables] of Object.entries(settings)) {
    const names = known.get(part);
    if (names === undefined) {
      const parts = [...known.keys()].filter((name) => !name.endsWith(sidecarName(""))).join(", ");
      throw new AppError(
        "configuration_invalid",
        `Settings are given for ${part}, which there is not; there are ${parts}.`,
      );
    }
    for (const name of Object.keys(variables)) {
      if (names.includes(name) || OF_EVERY_PROGRAM.test(name)) continue;
      throw new AppError(
        "configuration_invalid",
        `${name} is no setting of ${part}. Its settings (docs/configuration.md) are: ${names.join(", ")}.`,
        { details: { setting: name, part } },
      );
    }
  }
}
