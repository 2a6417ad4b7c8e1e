/* The commands of kvsink. Each takes its own name as argv[0] and returns the exit status. */
#ifndef TM_COMMANDS_H
#define TM_COMMANDS_H

int cmd_handmade(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_tokens(int argc, char **argv);
int cmd_logits(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_sinks(int argc, char **argv);
int cmd_outliers(int argc, char **argv);
int cmd_calibrate(int argc, char **argv);
int cmd_predict(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_sweep(int argc, char **argv);
int cmd_tasks(int argc, char **argv);
int cmd_demo(int argc, char **argv); /* not listed: make demo */
int cmd_dump(int argc, char **argv);
int cmd_quantize(int argc, char **argv);

#endif
