/** The sidecar of a job: the only part of a chain that talks to the message bus. */
import { runProgram } from "../lib/lifecycle.ts";
import { startSidecar } from "./app.ts";
import { loadSidecarSettings } from "./config.ts";

const settings = loadSidecarSettings();
void runProgram("sidecar", (program) => startSidecar(settings, program), {
  logLevel: settings.logLevel,
  exitWithParent: settings.exitWithParent,
  fields: { steward: settings.position.steward, run: settings.runName },
});
