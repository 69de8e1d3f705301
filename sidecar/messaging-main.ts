/** The messaging sidecar as a program: the message bus for the deployable beside it. */
import { loadSettings } from "../lib/config/env.ts";
import { runProgram } from "../lib/lifecycle.ts";
import { startMessagingSidecar } from "./messaging-app.ts";
import { MessagingSettings } from "./messaging-config.ts";

const settings = loadSettings(MessagingSettings);
void runProgram("messaging-sidecar", (program) => startMessagingSidecar(settings, program), {
  logLevel: settings.DYNAMOS_LOG_LEVEL,
  exitWithParent: settings.DYNAMOS_EXIT_WITH_PARENT,
});
