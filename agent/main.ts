/** The agent of one data steward or third party. Settings: `config.ts`. */
import { loadSettings } from "../lib/config/env.ts";
import { runProgram } from "../lib/lifecycle.ts";
import { startAgent } from "./app.ts";
import { AgentSettings } from "./config.ts";

const settings = loadSettings(AgentSettings);
void runProgram("agent", async (program) => void (await startAgent(settings, program)), {
  logLevel: settings.DYNAMOS_LOG_LEVEL,
  exitWithParent: settings.DYNAMOS_EXIT_WITH_PARENT,
  fields: { steward: settings.DYNAMOS_STEWARD },
});
