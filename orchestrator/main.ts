/** The orchestrator as a program. */
import { loadSettings } from "../lib/config/env.ts";
import { runProgram } from "../lib/lifecycle.ts";
import { startOrchestrator } from "./app.ts";
import { OrchestratorSettings } from "./config.ts";

const settings = loadSettings(OrchestratorSettings);
void runProgram("orchestrator", async (context) => void (await startOrchestrator(settings, context)), {
  logLevel: settings.DYNAMOS_LOG_LEVEL,
  exitWithParent: settings.DYNAMOS_EXIT_WITH_PARENT,
});
