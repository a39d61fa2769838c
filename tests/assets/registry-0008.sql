BEGIN TRANSACTION;
CREATE TABLE claims (
	"key" VARCHAR(64) NOT NULL, 
	owner VARCHAR(255) NOT NULL, 
	token VARCHAR(32) NOT NULL, 
	expires_at FLOAT NOT NULL, 
	CONSTRAINT pk_claims PRIMARY KEY ("key")
);
CREATE TABLE evaluations (
	id INTEGER NOT NULL, 
	network_id VARCHAR(64) NOT NULL, 
	dataset VARCHAR(255) NOT NULL, 
	fingerprint VARCHAR(128) NOT NULL, 
	evaluation TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_evaluations PRIMARY KEY (id), 
	CONSTRAINT fk_evaluations_network_id_networks FOREIGN KEY(network_id) REFERENCES networks (id)
);
INSERT INTO "evaluations" VALUES(1,'06d65f0d544d082a24a02a11ec188c63e4808ffc8765b0f9ba2f141888b97fc9','digits','0000000000000000000000000000000000000000000000000000000000000000','{"accuracy":0.75,"accuracy_all_labels":0.9,"accuracy_max":0.75,"accuracy_mean":0.7,"accuracy_min":0.65,"balanced_accuracy":0.75,"balanced_accuracy_all_labels":0.9,"balanced_accuracy_max":0.8,"balanced_accuracy_mean":0.7,"balanced_accuracy_min":0.6,"confusion":[[3,1,0],[0,4,0],[1,1,2]],"draws":2,"hidden_saw":null,"labels":30,"left_out":0,"per_class":[0.75,1.0,0.5],"seen":0,"untested":[],"validated":[],"worst_class":{"accuracy":0.5,"examples":4,"name":"b","right":2},"worst_class_all_labels":{"accuracy":0.75,"examples":4,"name":"b","right":3},"worst_class_mean":{"accuracy":0.5,"examples":4,"name":"b","right":2}}','2026-11-29 02:35:02.000332');
CREATE TABLE examples (
	fingerprint VARCHAR(128) NOT NULL, 
	training BLOB NOT NULL, 
	validation BLOB NOT NULL, 
	CONSTRAINT pk_examples PRIMARY KEY (fingerprint)
);
CREATE TABLE ground_truths (
	module_id VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	fingerprint VARCHAR(128) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	path TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_ground_truths PRIMARY KEY (module_id, digest), 
	CONSTRAINT fk_ground_truths_module_id_modules FOREIGN KEY(module_id) REFERENCES modules (id) ON DELETE CASCADE
);
CREATE TABLE interfaces (
	module_id VARCHAR(64) NOT NULL, 
	upstream VARCHAR(80) NOT NULL, 
	takes VARCHAR(64) NOT NULL, 
	gives VARCHAR(64) NOT NULL, 
	dtype VARCHAR(16) NOT NULL, 
	kernel VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_interfaces PRIMARY KEY (module_id), 
	CONSTRAINT fk_interfaces_module_id_modules FOREIGN KEY(module_id) REFERENCES modules (id) ON DELETE CASCADE
);
INSERT INTO "interfaces" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','preprocessing-9c7f0362dd8f3153a2ebd9f7095bf29c74daa62b894b2c233dbd40f05b564c27','1x8x8','2x8x8','float32','relu_avgpool');
INSERT INTO "interfaces" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74','b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','2x8x8','3','float32','relu_avgpool');
CREATE TABLE lineage (
	module_id VARCHAR(64) NOT NULL, 
	position INTEGER NOT NULL, 
	member_id VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_lineage PRIMARY KEY (module_id, position), 
	CONSTRAINT fk_lineage_module_id_modules FOREIGN KEY(module_id) REFERENCES modules (id) ON DELETE CASCADE, 
	CONSTRAINT fk_lineage_member_id_modules FOREIGN KEY(member_id) REFERENCES modules (id)
);
INSERT INTO "lineage" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1',1,'b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1');
INSERT INTO "lineage" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74',1,'b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1');
INSERT INTO "lineage" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74',2,'8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74');
CREATE TABLE modkernel_schema (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT modkernel_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO "modkernel_schema" VALUES('0008');
CREATE TABLE modules (
	id VARCHAR(64) NOT NULL, 
	recipe_digest VARCHAR(64) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	version INTEGER, 
	kind VARCHAR(16) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	weights_sha256 VARCHAR(64) NOT NULL, 
	spec_sha256 VARCHAR(64) NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	spec TEXT NOT NULL, 
	report TEXT NOT NULL, 
	metrics JSON NOT NULL, 
	source TEXT NOT NULL, 
	seconds FLOAT NOT NULL, 
	created_at DATETIME NOT NULL, 
	run_id VARCHAR(64), 
	model_id VARCHAR(64), dataset TEXT, pairs TEXT, files JSON, accuracy FLOAT, 
	CONSTRAINT pk_modules PRIMARY KEY (id)
);
INSERT INTO "modules" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','6c1c86b54c78a66cbe7756aee5db0acafda71aa22033110d91fadcb84365bda4','old.hidden-1',1,'hidden','READY','5182c38cb60e0388e492608fbe102cf8b00feff832733715641c1e9391639d97','6c1c86b54c78a66cbe7756aee5db0acafda71aa22033110d91fadcb84365bda4',560,'{"backbone":{"activation":"relu","depth":2,"name":"resnet18","options":{},"width":2},"blocks":["stem"],"dataset":{"classes":["0","1","2"],"fingerprint":"0000000000000000000000000000000000000000000000000000000000000000","name":"digits","pairs_fingerprint":null},"format":1,"hidden":{"kernel":{"centres":256,"name":"auto","pool":null,"sigma":1.0},"objective":{"include_diagonal":null,"name":"anchor_contrastive","temperature":null},"projection":null,"recipe":{"batch_size":256,"clip_norm":null,"crop_padding":0,"epochs":10,"flip":false,"learning_rate":0.1,"milestones":[],"momentum":0.9,"optimizer":"sgd","precision":"auto","schedule":"one_cycle","weight_decay":0.0005},"until":null},"interface":{"dtype":"float32","gives":[2,8,8],"kernel":{"centres":256,"name":"relu_avgpool","pool":null,"sigma":1.0},"takes":[1,8,8],"upstream":"preprocessing-9c7f0362dd8f3153a2ebd9f7095bf29c74daa62b894b2c233dbd40f05b564c27"},"kind":"hidden","preprocessing":{"dtype":"uint8","mean":[0.3],"shape":[1,8,8],"std":[0.2]},"seed":0}','{"recipe_digest":"6c1c86b54c78a66cbe7756aee5db0acafda71aa22033110d91fadcb84365bda4","history":[{"epoch":1,"objective":0.25,"validation":0.4,"learning_rate":0.1,"seconds":0.5},{"epoch":2,"objective":0.5,"validation":0.4,"learning_rate":0.1,"seconds":0.5}],"best_epoch":2,"seconds":1.5,"device":"cpu","precision":"float32","threads":2,"devices":1,"examples":100,"parameters":1234,"peak_memory_bytes":null,"evaluation":null,"stitch":null}','{"objective": 0.5, "validation": 0.4}','/where/it/was/trained',1.5,'2026-11-29 02:35:01.093111','5f8e0754da954ccd8d5a173a9cb6bf66','m-e21c000018424a07bc46115b14af8313',NULL,NULL,'{"MLmodel": "e6dfa3ff6bd2d74a542db636f9632f20c0c59b568210287a86e166623b290b74", "requirements.txt": "c397e77c185dedb20c89fc6e8e4dada17fadb89856db1814d609d26b042ca53c", "python_env.yaml": "3556f063b4278cd0e013de0460724e0b449e03c0273b1ac9759fa3378b5aa2bd", "weights.safetensors": "5182c38cb60e0388e492608fbe102cf8b00feff832733715641c1e9391639d97", "spec.json": "6c1c86b54c78a66cbe7756aee5db0acafda71aa22033110d91fadcb84365bda4"}',0.75);
INSERT INTO "modules" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74','504a3a2fef931ea706f803c134bfb917d47d5ae1da3acac9bbf4d7a730554ba9','old.output',1,'output','READY','eba3e2daf1af6e648f92a59c94da7baea1988f937f61a62fbf7a80060bbb7c30','504a3a2fef931ea706f803c134bfb917d47d5ae1da3acac9bbf4d7a730554ba9',164,'{"classes":["0","1","2"],"dataset":{"classes":["0","1","2"],"fingerprint":"0000000000000000000000000000000000000000000000000000000000000000","name":"digits","pairs_fingerprint":null},"format":1,"interface":{"dtype":"float32","gives":[3],"kernel":{"centres":256,"name":"relu_avgpool","pool":null,"sigma":1.0},"takes":[2,8,8],"upstream":"b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1"},"kind":"output","output":{"draws":1,"labels_per_class":null,"method":"cross_entropy","minimum_steps":200,"recipe":{"batch_size":256,"clip_norm":null,"crop_padding":0,"epochs":20,"flip":false,"learning_rate":0.02,"milestones":[],"momentum":0.9,"optimizer":"adam","precision":"auto","schedule":"one_cycle","weight_decay":0.0},"ridge":0.001},"preprocessing":{"dtype":"uint8","mean":[0.3],"shape":[1,8,8],"std":[0.2]},"seed":0}','{"recipe_digest":"504a3a2fef931ea706f803c134bfb917d47d5ae1da3acac9bbf4d7a730554ba9","history":[{"epoch":1,"objective":0.25,"validation":0.4,"learning_rate":0.1,"seconds":0.5},{"epoch":2,"objective":0.5,"validation":0.4,"learning_rate":0.1,"seconds":0.5}],"best_epoch":2,"seconds":1.5,"device":"cpu","precision":"float32","threads":2,"devices":1,"examples":100,"parameters":1234,"peak_memory_bytes":null,"evaluation":{"accuracy":0.75,"accuracy_all_labels":0.9,"labels":30,"draws":2,"accuracy_mean":0.7,"accuracy_min":0.65,"accuracy_max":0.75,"balanced_accuracy":0.75,"balanced_accuracy_all_labels":0.9,"balanced_accuracy_mean":0.7,"balanced_accuracy_min":0.6,"balanced_accuracy_max":0.8,"worst_class":{"name":"b","accuracy":0.5,"right":2,"examples":4},"worst_class_all_labels":{"name":"b","accuracy":0.75,"right":3,"examples":4},"worst_class_mean":{"name":"b","accuracy":0.5,"right":2,"examples":4},"untested":[],"validated":[],"confusion":[[3,1,0],[0,4,0],[1,1,2]],"per_class":[0.75,1.0,0.5],"left_out":0,"seen":0,"hidden_saw":null},"stitch":null}','{"objective": 0.5, "validation": 0.4, "accuracy": 0.75, "accuracy_all_labels": 0.9, "labels": 30.0, "draws": 2.0, "accuracy_mean": 0.7, "accuracy_min": 0.65, "accuracy_max": 0.75, "balanced_accuracy": 0.75, "balanced_accuracy_all_labels": 0.9, "balanced_accuracy_mean": 0.7, "balanced_accuracy_min": 0.6, "balanced_accuracy_max": 0.8, "left_out": 0.0, "seen": 0.0, "worst_class_accuracy": 0.5, "worst_class_accuracy_all_labels": 0.75, "worst_class_accuracy_mean": 0.5}','/where/it/was/trained',1.5,'2026-11-29 02:35:01.670935','766d890a4cc74b4cb1c32fbd1dbbaca4','m-d593540184d349988953c84d88b970da',NULL,NULL,'{"MLmodel": "cd0fda860cf331d31a3bbc930674fdfb6061212d6d6596c5ecab6e1a43cc470f", "requirements.txt": "c397e77c185dedb20c89fc6e8e4dada17fadb89856db1814d609d26b042ca53c", "python_env.yaml": "3556f063b4278cd0e013de0460724e0b449e03c0273b1ac9759fa3378b5aa2bd", "weights.safetensors": "eba3e2daf1af6e648f92a59c94da7baea1988f937f61a62fbf7a80060bbb7c30", "spec.json": "504a3a2fef931ea706f803c134bfb917d47d5ae1da3acac9bbf4d7a730554ba9"}',0.75);
CREATE TABLE moments (
	module_id VARCHAR(64) NOT NULL, 
	fingerprint VARCHAR(128) NOT NULL, 
	dataset VARCHAR(255), 
	classes JSON NOT NULL, 
	examples INTEGER NOT NULL, 
	dimension INTEGER NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	path TEXT NOT NULL, 
	seconds FLOAT NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_moments PRIMARY KEY (module_id, fingerprint), 
	CONSTRAINT fk_moments_module_id_modules FOREIGN KEY(module_id) REFERENCES modules (id) ON DELETE CASCADE
);
INSERT INTO "moments" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','0000000000000000000000000000000000000000000000000000000000000000','digits','["0", "1", "2"]',120,4,'920933981b0e770f6ccb2030b761934069796fcadc301500c60cb7e81e8f3005',1880,'moments/0000000000000000000000000000000000000000000000000000000000000000.safetensors',0.25,'2026-11-29 02:35:01.615925');
CREATE TABLE network_modules (
	network_id VARCHAR(64) NOT NULL, 
	position INTEGER NOT NULL, 
	module_id VARCHAR(64) NOT NULL, 
	weights_sha256 VARCHAR(64) NOT NULL, 
	spec_sha256 VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_network_modules PRIMARY KEY (network_id, position), 
	CONSTRAINT fk_network_modules_network_id_networks FOREIGN KEY(network_id) REFERENCES networks (id), 
	CONSTRAINT fk_network_modules_module_id_modules FOREIGN KEY(module_id) REFERENCES modules (id)
);
INSERT INTO "network_modules" VALUES('06d65f0d544d082a24a02a11ec188c63e4808ffc8765b0f9ba2f141888b97fc9',1,'b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','5182c38cb60e0388e492608fbe102cf8b00feff832733715641c1e9391639d97','6c1c86b54c78a66cbe7756aee5db0acafda71aa22033110d91fadcb84365bda4');
INSERT INTO "network_modules" VALUES('06d65f0d544d082a24a02a11ec188c63e4808ffc8765b0f9ba2f141888b97fc9',2,'8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74','eba3e2daf1af6e648f92a59c94da7baea1988f937f61a62fbf7a80060bbb7c30','504a3a2fef931ea706f803c134bfb917d47d5ae1da3acac9bbf4d7a730554ba9');
CREATE TABLE networks (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	created_at DATETIME NOT NULL, 
	run_id VARCHAR(64), 
	spec TEXT, made_again_at DATETIME, version INTEGER, model_id VARCHAR(64), files JSON, 
	CONSTRAINT pk_networks PRIMARY KEY (id)
);
INSERT INTO "networks" VALUES('06d65f0d544d082a24a02a11ec188c63e4808ffc8765b0f9ba2f141888b97fc9','old','2026-11-29 02:35:01.989994','e19c7b45e92a44f48b0ba7331c22c682',NULL,NULL,1,'m-f3ff0fe440e4490e96854a523ae6fe91','{"MLmodel": "2c9e3cadb2298adaa5c19a215825fcac124be744bbb3a089d92c7373f70f5a76", "requirements.txt": "c397e77c185dedb20c89fc6e8e4dada17fadb89856db1814d609d26b042ca53c", "python_env.yaml": "3556f063b4278cd0e013de0460724e0b449e03c0273b1ac9759fa3378b5aa2bd"}');
CREATE TABLE "promotions" (
	id INTEGER NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	alias VARCHAR(255) NOT NULL, 
	serial INTEGER NOT NULL, 
	version INTEGER, 
	module_id VARCHAR(64), 
	seen_at DATETIME NOT NULL, 
	who VARCHAR(255), 
	reason TEXT, 
	told BOOLEAN NOT NULL, 
	CONSTRAINT pk_promotions PRIMARY KEY (id), 
	CONSTRAINT uq_promotions_name UNIQUE (name, alias, serial)
);
CREATE TABLE remains (
	id VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	name VARCHAR(255) NOT NULL, 
	uri TEXT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	deleted_at DATETIME NOT NULL, 
	CONSTRAINT pk_remains PRIMARY KEY (id)
);
CREATE TABLE "traits" (
	module_id VARCHAR(64) NOT NULL, 
	trait VARCHAR(16) NOT NULL, 
	value VARCHAR(255) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_traits PRIMARY KEY (module_id, trait, value), 
	CONSTRAINT fk_traits_module_id_modules FOREIGN KEY(module_id) REFERENCES modules (id) ON DELETE CASCADE
);
INSERT INTO "traits" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','backbone','resnet18','2026-11-29 02:35:01.093111');
INSERT INTO "traits" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','block','stem','2026-11-29 02:35:01.093111');
INSERT INTO "traits" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','class','0','2026-11-29 02:35:01.093111');
INSERT INTO "traits" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','class','1','2026-11-29 02:35:01.093111');
INSERT INTO "traits" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','class','2','2026-11-29 02:35:01.093111');
INSERT INTO "traits" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','dataset','digits','2026-11-29 02:35:01.093111');
INSERT INTO "traits" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','fingerprint','0000000000000000000000000000000000000000000000000000000000000000','2026-11-29 02:35:01.093111');
INSERT INTO "traits" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','gives','2x8x8','2026-11-29 02:35:01.093111');
INSERT INTO "traits" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','kernel','relu_avgpool','2026-11-29 02:35:01.093111');
INSERT INTO "traits" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','kind','hidden','2026-11-29 02:35:01.093111');
INSERT INTO "traits" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','name','old.hidden-1','2026-11-29 02:35:01.093111');
INSERT INTO "traits" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','objective','anchor_contrastive','2026-11-29 02:35:01.093111');
INSERT INTO "traits" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','takes','1x8x8','2026-11-29 02:35:01.093111');
INSERT INTO "traits" VALUES('b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','upstream','preprocessing-9c7f0362dd8f3153a2ebd9f7095bf29c74daa62b894b2c233dbd40f05b564c27','2026-11-29 02:35:01.093111');
INSERT INTO "traits" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74','class','0','2026-11-29 02:35:01.670935');
INSERT INTO "traits" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74','class','1','2026-11-29 02:35:01.670935');
INSERT INTO "traits" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74','class','2','2026-11-29 02:35:01.670935');
INSERT INTO "traits" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74','dataset','digits','2026-11-29 02:35:01.670935');
INSERT INTO "traits" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74','fingerprint','0000000000000000000000000000000000000000000000000000000000000000','2026-11-29 02:35:01.670935');
INSERT INTO "traits" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74','gives','3','2026-11-29 02:35:01.670935');
INSERT INTO "traits" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74','kernel','relu_avgpool','2026-11-29 02:35:01.670935');
INSERT INTO "traits" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74','kind','output','2026-11-29 02:35:01.670935');
INSERT INTO "traits" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74','name','old.output','2026-11-29 02:35:01.670935');
INSERT INTO "traits" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74','takes','2x8x8','2026-11-29 02:35:01.670935');
INSERT INTO "traits" VALUES('8d6f5b0bd38f1d4fcbd0af666736ee86e18bf1642a275129a4e4eade4b86aa74','upstream','b675f9a8b46cf2140f4d9695c3eea774d22a81a7bcdd3b5583bb67eda1dcf4b1','2026-11-29 02:35:01.670935');
CREATE INDEX ix_modules_recipe_digest ON modules (recipe_digest);
CREATE INDEX ix_modules_name_version ON modules (name, version);
CREATE INDEX ix_interfaces_upstream ON interfaces (upstream);
CREATE INDEX ix_lineage_member_id ON lineage (member_id);
CREATE INDEX ix_networks_name ON networks (name);
CREATE INDEX ix_network_modules_module_id ON network_modules (module_id);
CREATE INDEX ix_evaluations_network_id ON evaluations (network_id);
CREATE INDEX ix_moments_fingerprint ON moments (fingerprint);
CREATE INDEX ix_modules_accuracy ON modules (accuracy);
CREATE INDEX ix_networks_created_at_id ON networks (created_at, id);
CREATE INDEX ix_traits_trait_value ON traits (trait, value, created_at, module_id);
CREATE INDEX ix_modules_name_created_at ON modules (name, created_at);
CREATE INDEX ix_modules_created_at_id ON modules (created_at, id, state, name, accuracy);
COMMIT;
