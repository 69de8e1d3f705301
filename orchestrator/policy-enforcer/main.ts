/** The policy enforcer as a program. */
import { loadSettings } from "../../lib/config/env.ts";
import { runProgram } from "../../lib/lifecycle.ts";
import { startPolicyEnforcer } from "./app.ts";
import { PolicyEnforcerSettings } from "./config.ts";

const settings = loadSettings(PolicyEnforcerSettings);
void runProgram("policy-enforcer", (context) => startPolicyEnforcer(settings, context), {
  logLevel: settings.DYNAMOS_LOG_LEVEL,
  exitWithParent: settings.DYNAMOS_EXIT_WITH_PARENT,
});
