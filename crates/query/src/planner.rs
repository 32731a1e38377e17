//! Nodes of plans that DataFusion does not have: the rules that put them in and what runs them.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::Result;
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use crate::asof::{AsofJoin, AsofJoinExec, AsofRule};
use crate::gapfill::{GapFill, GapFillExec, GapFillRule};
use crate::runs::RunsRule;
use crate::settings::Settings;

/// Adds the rules and the planner to a session. Our rules come first: they read plans as they were written.
pub(crate) fn register(builder: SessionStateBuilder, settings: &Settings) -> SessionStateBuilder {
    let rows_max = settings.query_gapfill_rows_max;
    let mut rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> =
        vec![Arc::new(AsofRule), Arc::new(GapFillRule { rows_max })];
    rules.extend(Optimizer::new().rules);
    builder
        .with_optimizer_rules(rules)
        .with_physical_optimizer_rules(physical_rules())
        .with_query_planner(Arc::new(Planner { rows_max }))
}

/// Ours comes last. Rows are counted by what is known of them after filters have sunk into scans, which may know that all their rows pass.
fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let (mut rules, mut counts) = (Vec::new(), None);
    for rule in PhysicalOptimizer::new().rules {
        match rule.name() {
            "aggregate_statistics" => counts = Some(rule),
            "FilterPushdown" => {
                rules.push(rule);
                rules.extend(counts.take());
            }
            _ => rules.push(rule),
        }
    }
    debug_assert!(counts.is_none(), "filters sink after rows are counted");
    rules.extend(counts);
    rules.push(Arc::new(RunsRule));
    rules
}

#[derive(Debug, Clone)]
struct Planner {
    rows_max: u64,
}

#[async_trait]
impl QueryPlanner for Planner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(self.clone())]);
        planner.create_physical_plan(plan, session).await
    }
}

#[async_trait]
impl ExtensionPlanner for Planner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if let Some(fill) = node.as_any().downcast_ref::<GapFill>() {
            return Ok(Some(Arc::new(GapFillExec::try_new(fill, Arc::clone(&inputs[0]), self.rows_max)?)));
        }
        if let Some(join) = node.as_any().downcast_ref::<AsofJoin>() {
            return asof(join, inputs, session).map(Some);
        }
        Ok(None)
    }
}

fn asof(join: &AsofJoin, inputs: &[Arc<dyn ExecutionPlan>], session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for (one, other) in join.keys.iter().chain([&join.times]) {
        left.push(session.create_physical_expr(one.clone(), join.left.schema())?);
        right.push(session.create_physical_expr(other.clone(), join.right.schema())?);
    }
    let schema = Arc::clone(UserDefinedLogicalNodeCore::schema(join).inner());
    let (one, other) = (Arc::clone(&inputs[0]), Arc::clone(&inputs[1]));
    Ok(Arc::new(AsofJoinExec::new(one, other, [left, right], join.nearest, schema)))
}
